package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/nineply/nineply/bench/generated"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/source/registry"
)

const (
	perDir   = 24
	large    = "srv/large.bin"
	largeLen = 32 << 20
)

// plan is what the image is made of: the same always. Half of the files are
// below 2 KiB, few above 64.
func plan(count int) []generated.File {
	rng := rand.New(rand.NewPCG(9, uint64(count)))
	files := []generated.File{{Name: large, Size: largeLen, Number: 1}}
	for i := range count {
		size := int64(256) << rng.IntN(9)
		files = append(files, generated.File{
			Name: fmt.Sprintf("usr/lib/package-%04d/module-%02d.so", i/perDir, i%perDir),
			Size: size + rng.Int64N(size), Number: rng.Uint64(),
		})
	}
	return files
}

func unpack(to string, files []generated.File) error {
	for _, file := range files {
		path := filepath.Join(to, file.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, generated.Content(file.Number, file.Size))
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func push(ctx context.Context, ref string, files []generated.File) (err error) {
	r := registry.New(registry.Options{})
	defer func() { err = errors.Join(err, r.Close()) }()
	_, err = generated.Push(ctx, r, ref, files, estargz.WriterOptions{Level: 1})
	return err
}

// serveEcho sends back what comes on a unix socket, until stop is called.
func serveEcho(ctx context.Context, path string) (stop func() error, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				echo(conn)
				_ = conn.Close()
			})
		}
	})
	return func() error {
		err := l.Close()
		wg.Wait()
		return err
	}, nil
}

func echo(conn net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if err == nil {
			_, err = conn.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}
