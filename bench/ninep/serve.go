package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containerd/platforms"
	"github.com/hugelgupf/p9/fsimpl/localfs"
	"github.com/hugelgupf/p9/p9"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source/layout"
	"github.com/nineply/nineply/p9server"
)

// serve is the main function of a server's process. It ends with its input.
func serve(ctx context.Context, s settings) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the process
		answer(os.Stdin, os.Stdout)
		cancel()
	}()
	switch s.serve {
	case oursName, otherTreeName:
		return serveImage(ctx, s)
	case otherName:
		attacher := localfs.Attacher(filepath.Join(s.dir, treeDir))
		return listen(ctx, s.socket, func(nc net.Conn) { _ = p9.NewServer(attacher).Handle(nc, nc) })
	case echoName:
		return listen(ctx, s.socket, echo)
	}
	return fmt.Errorf("no server %q", s.serve)
}

// answer tells about memory whenever a line comes in.
func answer(r io.Reader, w io.Writer) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if lines.Text() == askHeap {
			runtime.GC()
			runtime.GC() // what pools held is gone after two
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if json.NewEncoder(w).Encode(memory{Mallocs: m.Mallocs, Heap: m.HeapAlloc}) != nil {
			return
		}
	}
}

// listen has every connection handled until ctx ends.
func listen(ctx context.Context, socket string, handle func(net.Conn)) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	for {
		nc, err := l.Accept()
		if err != nil {
			return nil //nolint:nilerr // the end
		}
		go func() { // ends with the process at the latest
			handle(nc)
			_ = nc.Close() // by the handler already, perhaps
		}()
	}
}

// serveImage puts a catalog of the image, with all chunks in its store, behind
// Nineply's server or the other one.
func serveImage(ctx context.Context, s settings) (err error) {
	store, err := chunkstore.Open(ctx, chunkstore.Options{Dir: filepath.Join(s.data, "chunks")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	sched := fetch.New(ctx, store, fetch.Options{})
	catalog, err := image.New(ctx, image.Options{
		Dir: filepath.Join(s.data, "index"), Source: layout.New(), Store: store, Records: store.Records(),
		Scheduler: sched, Platform: platforms.DefaultSpec(),
	})
	if err != nil {
		sched.Close()
		return err
	}
	defer func() { err = errors.Join(err, catalog.Close()) }()
	defer sched.Close()
	tree, release, err := catalog.Open(ctx, image.AttachImage+imageRef(s.dir))
	if err != nil {
		return err
	}
	defer release()
	if err := readAll(ctx, tree, tree.Root()); err != nil {
		return fmt.Errorf("filling the store: %w", err)
	}
	if s.serve == otherTreeName {
		return listen(ctx, s.socket, func(nc net.Conn) { _ = p9.NewServer(&otherFile{tree: tree, node: tree.Root()}).Handle(nc, nc) })
	}
	return serveOurs(ctx, s.socket, exporter{served{tree}})
}

func serveOurs(ctx context.Context, socket string, e exporter) error {
	server := p9server.NewServer(e, p9server.Options{})
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	if err := server.Serve(ctx, l); ctx.Err() == nil {
		return errors.Join(err, server.Close())
	}
	return server.Close()
}

// readAll reads every file below a directory once.
func readAll(ctx context.Context, t image.Tree, dir uint64) error {
	buf := make([]byte, 1<<20)
	for pos := uint64(0); ; {
		e, next, ok, err := t.Readdir(dir, pos)
		if err != nil || !ok {
			return err
		}
		pos = next
		a, err := t.Attr(e.Ino)
		if err != nil {
			return err
		}
		if a.Mode&0o170000 == 0o040000 {
			if err := readAll(ctx, t, e.Ino); err != nil {
				return err
			}
			continue
		}
		for off := int64(0); off < int64(a.Size); {
			n, err := t.ReadAt(ctx, e.Ino, buf, off)
			if err != nil {
				return err
			}
			off += int64(n)
		}
	}
}

// exporter exports one tree under any name.
type exporter struct{ tree served }

func (e exporter) Attach(context.Context, string) (p9server.Tree, func(), error) {
	return e.tree, func() {}, nil
}

// served is the tree with what only 9P asks for.
type served struct{ image.Tree }

func (served) Statfs() p9server.Statfs { return p9server.Statfs{FSID: 1} }
