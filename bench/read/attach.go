package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nineply/nineply/bench/generated"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source/layout"
)

const (
	// attachFiles are in an image of attachLayers layers.
	attachFiles  = 100_000
	attachLayers = 5
	attachDirs   = 1000
	// attachWithin is how long it may take to attach it, milliseconds.
	attachWithin = 10
)

// attaches measures how long it takes to attach an image of many files that is known:
// as the first to do so after the program has begun, which has to open and verify its
// indexes, and when somebody else has it attached.
func attaches(ctx context.Context, runs int, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "nineply-attach-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ref := "oci:" + filepath.Join(dir, "image") + ":bench"
	tars := make([]func(io.Writer) error, attachLayers)
	for i := range tars {
		tars[i] = func(w io.Writer) error { return manyFiles(w, i) }
	}
	if _, err := generated.PushTars(ctx, layout.New(), ref, estargz.WriterOptions{Level: 1}, tars...); err != nil {
		return err
	}
	var name string // with the digest, as those mount it who have resolved it
	err = withCatalog(ctx, dir, func(c *image.Catalog) (err error) {
		if name, err = c.Canonical(ctx, image.AttachImage+ref); err != nil {
			return err
		}
		return attach(ctx, c, name)
	})
	if err != nil {
		return err
	}
	var first, again []time.Duration
	for range runs {
		err := withCatalog(ctx, dir, func(c *image.Catalog) error {
			began := time.Now()
			_, release, err := c.Open(ctx, name)
			if err != nil {
				return err
			}
			defer release()
			first = append(first, time.Since(began))
			began = time.Now()
			if err := attach(ctx, c, name); err != nil {
				return err
			}
			again = append(again, time.Since(began))
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, row := range []struct {
		name string
		took []time.Duration
	}{{"first", first}, {"again", again}} {
		slices.Sort(row.took)
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		if _, err := fmt.Fprintf(out, "Benchmarkattach-100k/%s 1 %.3f ms-p50 %d ms-p50-max %.3f ms-worst\n",
			row.name, ms(row.took[len(row.took)/2]), attachWithin, ms(row.took[len(row.took)-1])); err != nil {
			return err
		}
	}
	return nil
}

// attach opens a tree and gives it back.
func attach(ctx context.Context, c *image.Catalog, name string) error {
	tree, release, err := c.Open(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	if _, files := tree.Size(); files < attachFiles {
		return fmt.Errorf("%d files", files)
	}
	return nil
}

// manyFiles writes a layer: its part of the files, small ones, in directories that all
// layers share.
func manyFiles(w io.Writer, layer int) error {
	t := tar.NewWriter(w)
	for i := range attachDirs {
		h := tar.Header{Name: fmt.Sprintf("usr/lib/d%04d/", i), Typeflag: tar.TypeDir, Mode: 0o755}
		if err := t.WriteHeader(&h); err != nil {
			return err
		}
	}
	for i := layer; i < attachFiles; i += attachLayers {
		data := fmt.Appendf(nil, "%020d", i)
		h := tar.Header{
			Name:     fmt.Sprintf("usr/lib/d%04d/module-%06d.py", i/(attachFiles/attachDirs), i),
			Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data)),
		}
		if err := t.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := t.Write(data); err != nil {
			return err
		}
	}
	return t.Close()
}
