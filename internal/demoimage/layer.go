package demoimage

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// Layer is one tar.gz layer of an image.
type Layer struct {
	Path    string        // the blob, a tar.gz file
	Digest  digest.Digest // of the blob
	DiffID  digest.Digest // of the tar in it
	Size    int64         // of the blob in bytes
	TarSize int64         // of the tar in bytes
}

// counter hashes and counts what is written.
type counter struct {
	hash hash.Hash
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.hash.Write(p)
}

func (c *counter) digest() digest.Digest { return digest.NewDigest(digest.SHA256, c.hash) }

// writeLayer writes the entries as a tar.gz file, which is then complete or
// removed.
func writeLayer(ctx context.Context, path string, entries []entry) (_ Layer, err error) {
	file, err := os.Create(path)
	if err != nil {
		return Layer{}, fmt.Errorf("write layer: %w", err)
	}
	defer func() {
		err = errors.Join(err, file.Close())
		if err != nil {
			err = errors.Join(fmt.Errorf("write layer: %w", err), os.Remove(path))
		}
	}()
	blob, diff := &counter{hash: sha256.New()}, &counter{hash: sha256.New()}
	compressed, err := gzip.NewWriterLevel(io.MultiWriter(file, blob), gzip.DefaultCompression)
	if err != nil {
		return Layer{}, err
	}
	archive := tar.NewWriter(io.MultiWriter(compressed, diff))
	for i := range entries {
		if err := ctx.Err(); err != nil {
			return Layer{}, err
		}
		if err := writeEntry(archive, &entries[i]); err != nil {
			return Layer{}, fmt.Errorf("%s: %w", entries[i].header.Name, err)
		}
	}
	if err := errors.Join(archive.Close(), compressed.Close()); err != nil {
		return Layer{}, err
	}
	return Layer{Path: path, Digest: blob.digest(), DiffID: diff.digest(), Size: blob.n, TarSize: diff.n}, nil
}

func writeEntry(archive *tar.Writer, e *entry) (err error) {
	if err := archive.WriteHeader(&e.header); err != nil {
		return err
	}
	if e.open == nil {
		return nil
	}
	content, err := e.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	// A file that changed its size since it was listed is an error here.
	_, err = io.CopyN(archive, content, e.header.Size)
	return err
}
