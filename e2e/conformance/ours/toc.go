package ours

import (
	"archive/tar"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"

	"github.com/nineply/nineply/estargz"
)

// packTOC writes a tar.gz with the TOC alone, and its tar to diff.
func packTOC(w, diff io.Writer, text []byte) error {
	zw := gzip.NewWriter(w)
	tw := tar.NewWriter(io.MultiWriter(zw, diff))
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: estargz.TOCName, Size: int64(len(text))}); err != nil {
		return err
	}
	_, err := tw.Write(text)
	return errors.Join(err, tw.Close(), zw.Close())
}
