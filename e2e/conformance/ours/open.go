package ours

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/stargz-snapshotter/metadata"
	digest "github.com/opencontainers/go-digest"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
)

// Reader is a layer opened by our code.
type Reader struct {
	sr    *io.SectionReader
	index *index
}

// index is what a reader and its clones share.
type index struct {
	*layerindex.Index
	toc    digest.Digest
	hidden int // landmarks: in the TOC, and not in the tree
}

// Open reads footer and TOC of a blob, in any of the formats that keep a TOC,
// and makes a layer index of it.
func Open(sr *io.SectionReader, options ...metadata.Option) (*Reader, error) {
	o := metadata.Options{Telemetry: &metadata.Telemetry{}}
	for _, option := range options {
		if err := option(&o); err != nil {
			return nil, err
		}
	}
	start := time.Now()
	tail := make([]byte, min(estargz.FooterSize, sr.Size()))
	if _, err := sr.ReadAt(tail, sr.Size()-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	footer, err := estargz.ParseFooter(tail)
	if err != nil {
		return nil, err
	}
	report(o.Telemetry.GetFooterLatency, start)
	start = time.Now()
	packed, footer, err := readTOC(sr, footer, o.Decompressors)
	if err != nil {
		return nil, err
	}
	report(o.Telemetry.GetTocLatency, start)
	start = time.Now()
	x, err := newIndex(packed, footer, sr.Size())
	if err != nil {
		return nil, err
	}
	report(o.Telemetry.DeserializeTocLatency, start)
	return &Reader{sr, x}, nil
}

func report(hook metadata.MeasureLatencyHook, start time.Time) {
	if hook != nil {
		hook(start)
	}
}

// readTOC gives the compressed TOC.
func readTOC(sr *io.SectionReader, footer estargz.Footer, outside []metadata.Decompressor) ([]byte, estargz.Footer, error) {
	if footer.External {
		packed, err := externalTOC(outside)
		return packed, footer.Outside(sr.Size()), err
	}
	off, n, err := footer.TOCRange(sr.Size(), estargz.DefaultLimits())
	if err != nil {
		return nil, footer, err
	}
	packed := make([]byte, n)
	_, err = io.ReadFull(io.NewSectionReader(sr, off, n), packed)
	return packed, footer, err
}

// newIndex parses the TOC into an index, whose file is gone at once.
func newIndex(packed []byte, footer estargz.Footer, size int64) (_ *index, err error) {
	info := layerindex.LayerInfo{BlobSize: size, DataEnd: footer.DataEnd(), Format: layerindex.FormatEStargz}
	if footer.Zstd {
		info.Format = layerindex.FormatZstdChunked
	}
	b := layerindex.NewBuilder(info, layerindex.DefaultLimits())
	x := &index{}
	landmarks := map[string]bool{}
	sum, err := estargz.ReadTOC(packed, footer, estargz.DefaultLimits(), func(e *estargz.Entry) error {
		if name := clean(e.Name); name == estargz.PrefetchLandmark || name == estargz.NoPrefetchLandmark {
			landmarks[name] = true
		}
		return b.Add(e)
	})
	if err != nil {
		return nil, err
	}
	x.toc, x.hidden = digest.Digest(sum.String()), len(landmarks)
	b.SetTOCDigest(sum)
	dir, err := os.MkdirTemp(memoryDir(), "ours")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "index")
	if err := b.WriteFile(path); err != nil {
		return nil, err
	}
	x.Index, err = layerindex.Open(path)
	return x, err
}

// memoryDir is a directory whose files need not be waited for: an index is synced
// before it is opened.
func memoryDir() string {
	const dir = "/dev/shm"
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	return dir
}

// externalTOC asks the suite for the TOC that is not in the blob, and packs it
// as it is packed in a TOC image.
func externalTOC(outside []metadata.Decompressor) ([]byte, error) {
	for _, d := range outside {
		rc, err := d.DecompressTOC(nil)
		if err != nil {
			continue
		}
		text, err := io.ReadAll(rc)
		if err := errors.Join(err, rc.Close()); err != nil {
			return nil, err
		}
		res, err := estargz.WriteTOC(io.Discard, io.Discard, 0, text, estargz.WriterOptions{KeepDiffID: true})
		return res.ExternalTOC, err
	}
	return nil, errors.New("nobody has the TOC")
}

// clean is the normal form of a tar name.
func clean(name string) string {
	return strings.TrimPrefix(filepath.Clean("/"+name), "/")
}

// Clone reads another copy of the same blob.
func (r *Reader) Clone(sr *io.SectionReader) (metadata.Reader, error) {
	return &Reader{sr, r.index}, nil
}

// Close leaves the index to the collector: clones may be in use.
func (r *Reader) Close() error { return nil }

// TOCDigest is the digest of the TOC's JSON.
func (r *Reader) TOCDigest() digest.Digest { return r.index.toc }

// NumOfNodes counts nodes as upstream does, with the landmark.
func (r *Reader) NumOfNodes() (int, error) { return r.index.NumNodes() + r.index.hidden, nil }

// NumOfChunks counts the chunks of a file.
func (r *Reader) NumOfChunks(id uint32) (int, error) {
	c, err := r.index.Content(layerindex.Ino(id))
	if err != nil {
		return 0, fmt.Errorf("node %d: %w", id, err)
	}
	return int(c.Count), nil
}
