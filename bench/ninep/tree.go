package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/nineply/nineply/bench/generated"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/source/layout"
)

// The tree: a directory of small files, and a large file.
const (
	fileCount  = 10_000
	fileBytes  = 4096
	largeBytes = 64 << 20
)

// Where the tree and the image of it are, below the directory of the run.
const (
	treeDir  = "tree"
	imageDir = "image"
)

func fileName(i int) string { return fmt.Sprintf("file-%05d", i) }

// appendFileName is fileName without an allocation.
func appendFileName(b []byte, i int) []byte {
	b = append(b, "file-"...)
	for unit := 10_000; unit > 0; unit /= 10 {
		b = append(b, byte('0'+i/unit%10))
	}
	return b
}

// makeTree makes the tree as files, and as an image in an OCI layout.
func makeTree(ctx context.Context, dir string) error {
	root := filepath.Join(dir, treeDir)
	if err := os.MkdirAll(filepath.Join(root, "dir"), 0o755); err != nil {
		return err
	}
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	if err := w.WriteHeader(&tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte{'n', 'i', 'n', 'e', 'p'})
	add := func(name string, size int) error {
		data := make([]byte, size)
		_, _ = random.Read(data)                                                     // never fails
		if err := os.WriteFile(filepath.Join(root, name), data, 0o644); err != nil { //nolint:gosec // read by a server as another user
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	for i := range fileCount {
		if err := add("dir/"+fileName(i), fileBytes); err != nil {
			return err
		}
	}
	if err := errors.Join(add("large", largeBytes), w.Close()); err != nil {
		return err
	}
	return makeImage(ctx, filepath.Join(dir, imageDir), &raw)
}

// imageRef is the image in the layout of makeImage.
func imageRef(dir string) string { return "oci:" + filepath.Join(dir, imageDir) + ":bench" }

// makeImage writes an image of one eStargz layer.
func makeImage(ctx context.Context, path string, raw *bytes.Buffer) error {
	write := func(w io.Writer) error {
		_, err := raw.WriteTo(w)
		return err
	}
	_, err := generated.PushTars(ctx, layout.New(), "oci:"+path+":bench", estargz.WriterOptions{Level: 1}, write)
	return err
}
