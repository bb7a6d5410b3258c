// Command write makes a lazy layer of a plain tar, as fast as it can: one
// conversion in a process of its own, so that its CPU time and memory can be told.
//
//	write [-format estargz|zstd|containers] [-keep-diff-id] TAR BLOB
//
// What the blob is goes to standard output as JSON.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/nineply/nineply/estargz"
)

func main() {
	format := flag.String("format", "estargz", "estargz, zstd or containers")
	toc := flag.String("toc", "", "`file` for a TOC that is kept outside")
	var opts estargz.WriterOptions
	flag.BoolVar(&opts.KeepDiffID, "keep-diff-id", false, "leave the tar as it is")
	flag.IntVar(&opts.Level, "level", 0, "compression level")
	flag.IntVar(&opts.Workers, "workers", 0, "goroutines that compress")
	flag.Int64Var(&opts.MinMemberSize, "member", 0, "bytes that small files share")
	flag.Int64Var(&opts.ChunkSize, "chunk", 0, "bytes that large files are cut into")
	flag.Parse()
	switch *format {
	case "zstd":
		opts.Format = estargz.FormatZstdChunked
	case "containers":
		opts.Format, opts.Dialect = estargz.FormatZstdChunked, estargz.DialectContainers
	}
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	ctx := context.Background()
	if err := write(ctx, opts, flag.Arg(0), flag.Arg(1), *toc); err != nil {
		fmt.Fprintln(os.Stderr, "write:", err)
		os.Exit(1)
	}
}

func write(ctx context.Context, opts estargz.WriterOptions, from, to, toc string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	buffered := bufio.NewWriterSize(out, 1<<20)
	w := estargz.NewWriter(buffered, opts)
	if err := w.AppendTar(ctx, in); err != nil {
		return err
	}
	res, err := w.Close()
	if err != nil {
		return err
	}
	if toc != "" {
		if err := os.WriteFile(toc, res.ExternalTOC, 0o600); err != nil {
			return err
		}
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"digest": res.BlobDigest.String(), "size": res.BlobSize, "diffID": res.DiffID.String(),
		"mediaType": res.MediaType, "annotations": res.Annotations,
	})
}
