package layout

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// archivePusher writes an archive: a tar that grows by one file for each blob,
// and that gets its index.json, and its name, at the end.
type archivePusher struct {
	ref Reference

	mu    sync.Mutex
	old   *archive // what is at the path now; nil if nothing is
	out   *renameio.PendingFile
	size  int64 // of out, up to the last complete file
	have  map[string]bool
	index *ocispec.Index
	done  bool
}

var (
	_ source.Committer = (*archivePusher)(nil)
	_ source.Unpinner  = (*archivePusher)(nil)
)

func newArchivePusher(path string) (*archivePusher, error) {
	p := &archivePusher{ref: Reference{Path: path, Archive: true}, have: map[string]bool{}, index: newIndex()}
	old := &archive{path: path, members: map[string]member{}}
	switch err := old.scan(); {
	case err == nil:
		p.old = old
		o := objects{ref: p.ref, store: old}
		if p.index, err = o.index(); err != nil {
			return nil, fmt.Errorf("archive to add to: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("archive to add to: %w", err)
	}
	out, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o644), renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return nil, p.failure("make", "", err)
	}
	p.out = out
	return p, nil
}

func (p *archivePusher) failure(op, what string, err error) error {
	kind := fserr.KindOf(err)
	if kind == fserr.Internal {
		kind = fserr.Unavailable
	}
	return fserr.New(kind, op, strings.TrimSpace(p.ref.String()+" "+what), err)
}

// PushBlob implements [source.Pusher]. Blobs are written one after the other.
func (p *archivePusher) PushBlob(ctx context.Context, desc ocispec.Descriptor, open func() (io.ReadCloser, error)) error {
	if err := source.CheckDigest(desc.Digest); err != nil {
		return err
	}
	if desc.Size < 0 {
		return fserr.Newf(fserr.Invalid, "push", desc.Digest.String(), "negative size")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name := blobPath(desc.Digest)
	if p.have[name] || p.oldHas(name, desc.Size) {
		return nil
	}
	rc, err := open()
	if err != nil {
		return p.failure("push", desc.Digest.String(), fmt.Errorf("open content: %w", err))
	}
	err = p.add(name, desc.Size, inContext{ctx, source.Verified(rc, desc.Digest, desc.Size)})
	if cerr := rc.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close content: %w", cerr)
	}
	if err != nil {
		return p.failure("push", desc.Digest.String(), err)
	}
	return nil
}

func (p *archivePusher) oldHas(name string, size int64) bool {
	if p.old == nil {
		return false
	}
	m, ok := p.old.members[name]
	return ok && m.size == size
}

// inContext reads until its context ends.
type inContext struct {
	ctx context.Context //nolint:containedctx // it lives as long as one copy
	r   io.Reader
}

func (r inContext) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// add appends one file, or leaves the archive as it was. The caller holds mu.
func (p *archivePusher) add(name string, size int64, content io.Reader) error {
	if p.done {
		return fserr.New(fserr.Closed, "write", name, nil)
	}
	if err := p.append(name, size, content); err != nil {
		_, serr := p.out.Seek(p.size, io.SeekStart)
		return errors.Join(err, p.out.Truncate(p.size), serr)
	}
	pos, err := p.out.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	p.size = pos
	p.have[name] = true
	return nil
}

func (p *archivePusher) append(name string, size int64, content io.Reader) error {
	tw := tar.NewWriter(p.out)
	if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{tw}, content, make([]byte, 256<<10))
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if err := tw.Flush(); err != nil { // pads to a block, and does not end the archive
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

// PushManifest implements [source.Pusher]. A tag is there after Commit.
func (p *archivePusher) PushManifest(ctx context.Context, target, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if len(data) > source.MaxManifestBytes {
		return desc, fserr.Newf(fserr.TooLarge, "push", desc.Digest.String(), "%d bytes, at most %d are allowed", len(data), source.MaxManifestBytes)
	}
	tag, err := tagFor(p.ref, target, desc.Digest)
	if err != nil {
		return desc, err
	}
	err = p.PushBlob(ctx, desc, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil || tag == "" {
		return desc, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	addTag(p.index, desc, tag)
	return desc, nil
}

// Commit implements [source.Committer].
func (p *archivePusher) Commit(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.commit(ctx); err != nil {
		return p.failure("write", "", err)
	}
	p.done = true
	return nil
}

func (p *archivePusher) commit(ctx context.Context) error {
	if err := p.keepOld(ctx); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		v    any
	}{
		{ocispec.ImageIndexFile, p.index},
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
	} {
		data, err := json.Marshal(f.v)
		if err != nil {
			return fmt.Errorf("encode %s: %w", f.name, err)
		}
		if err := p.add(f.name, int64(len(data)), bytes.NewReader(data)); err != nil {
			return err
		}
	}
	if err := tar.NewWriter(p.out).Close(); err != nil {
		return fmt.Errorf("end archive: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return p.out.CloseAtomicallyReplace()
}

// keepOld copies what the archive at the path holds beside what was pushed.
func (p *archivePusher) keepOld(ctx context.Context) error {
	if p.old == nil {
		return nil
	}
	f, err := os.Open(p.old.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	for _, name := range slices.Sorted(maps.Keys(p.old.members)) {
		m := p.old.members[name]
		if p.have[name] || !strings.HasPrefix(name, ocispec.ImageBlobsDir+"/") {
			continue
		}
		if err := p.add(name, m.size, inContext{ctx, io.NewSectionReader(f, m.off, m.size)}); err != nil {
			return fmt.Errorf("keep %s: %w", name, err)
		}
	}
	return nil
}

// Close implements [source.Unpinner].
func (p *archivePusher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	if err := p.out.Cleanup(); err != nil {
		return p.failure("clean up", "", err)
	}
	return nil
}
