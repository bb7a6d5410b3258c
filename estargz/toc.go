package estargz

import (
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/nineply/nineply/internal/inflate"
)

// ReadTOC reads the TOC out of its gzip member or zstd frame, the bytes that
// [Footer.TOCRange] names, and calls fn for each entry in order. The result is
// the digest of exactly the bytes of the TOC's JSON (in a gzip member, of its tar
// entry), for the caller to compare with the one it trusts before it believes any
// of the entries.
//
// Entries arrive checked: they keep to lim; chunks follow their file, tile it
// without gap, and lie in the data before the TOC in the order of the blob.
// ChunkSize is always that of the chunk, and ChunkDigest is set from Digest where
// a legacy TOC has only that. Chunks carry the name of their file. The *Entry is
// used again for the next entry; its strings and its Xattrs may be kept.
//
// An error of fn ends the reading and is returned as it is. Other errors are
// those of this package and of internal/inflate, all of them with a kind of
// internal/fserr: Corrupt, TooLarge or Unsupported.
func ReadTOC(packed []byte, footer Footer, lim Limits, fn func(*Entry) error) (Digest, error) {
	lim = lim.withDefaults()
	if int64(len(packed)) > lim.TOCCompressed {
		return Digest{}, fmt.Errorf("TOC: %w: %d bytes", ErrTOCCompressedSize, len(packed))
	}
	if isZstd(packed) {
		return readZstdTOC(packed, footer, lim, fn)
	}
	r, err := inflate.NewReader(packed)
	if err != nil {
		return Digest{}, fmt.Errorf("TOC: %w", err)
	}
	lim.TOCSize = plausibleTOC(packed, lim)
	digest, err := readGzipTOC(r, footer, lim, fn)
	if cerr := r.Close(); err == nil && cerr != nil {
		return Digest{}, cerr
	}
	return digest, err
}

// No TOC compresses as well as blanks do: its digests hardly compress at all.
const (
	maxTOCRatio = 256
	smallTOC    = 4 << 20 // bytes of JSON that are not worth the question
)

// plausibleTOC is how long the JSON of a compressed TOC can be.
func plausibleTOC(packed []byte, lim Limits) int64 {
	return min(lim.TOCSize, max(smallTOC, maxTOCRatio*int64(len(packed))))
}

// readGzipTOC reads a TOC that is the content of a tar entry.
func readGzipTOC(r io.Reader, footer Footer, lim Limits, fn func(*Entry) error) (Digest, error) {
	size, err := tocSize(r)
	if err != nil {
		return Digest{}, fmt.Errorf("TOC: %w", err)
	}
	if size > lim.TOCSize {
		return Digest{}, fmt.Errorf("TOC: %w: %d bytes, limit %d", ErrTOCSize, size, lim.TOCSize)
	}
	return parseTOC(&exactReader{r, size, inflate.ErrShort}, footer, lim, fn)
}

// readZstdTOC reads a TOC that is a zstd frame of its own, to the frame's end.
func readZstdTOC(packed []byte, footer Footer, lim Limits, fn func(*Entry) error) (Digest, error) {
	z, err := newZstdReader()
	if err != nil {
		return Digest{}, fmt.Errorf("TOC: %w", err)
	}
	defer z.Close() //nolint:errcheck // it only gives the decoder back
	if err := z.start(packed); err != nil {
		return Digest{}, fmt.Errorf("TOC: %w", err)
	}
	lim.TOCSize = plausibleTOC(packed, lim)
	if footer.TOCRawSize == 0 {
		return parseTOC(&limitReader{z, lim.TOCSize}, footer, lim, fn)
	}
	if footer.TOCRawSize > lim.TOCSize {
		return Digest{}, fmt.Errorf("TOC: %w: %d bytes, limit %d", ErrTOCSize, footer.TOCRawSize, lim.TOCSize)
	}
	digest, err := parseTOC(&exactReader{z, footer.TOCRawSize, ErrTOCRawSize}, footer, lim, fn)
	if err != nil {
		return Digest{}, err
	}
	var more [1]byte
	if _, err := io.ReadFull(z, more[:]); err != io.EOF {
		if err == nil {
			err = ErrTOCRawSize
		}
		return Digest{}, fmt.Errorf("TOC: %w", err)
	}
	return digest, nil
}

// parseTOC reads the JSON that r is made of.
func parseTOC(r io.Reader, footer Footer, lim Limits, fn func(*Entry) error) (Digest, error) {
	p := tocParser{
		scanner: scanner{r: r, hash: sha256.New(), buf: make([]byte, scanBuffer)},
		check:   checker{lim: lim, end: footer.DataEnd()},
		holes:   footer.Zstd,
		fn:      fn,
	}
	if err := p.run(); err != nil {
		return Digest{}, err
	}
	return Digest(p.hash.Sum(nil)), nil
}

// limitReader fails with [ErrTOCSize] rather than read more than n bytes.
type limitReader struct {
	r io.Reader
	n int64
}

func (l *limitReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.n -= int64(n); l.n < 0 {
		return 0, ErrTOCSize
	}
	return n, err
}

// exactReader reads n bytes and then [io.EOF]. That the source ends earlier is
// the error short, not the end.
type exactReader struct {
	r     io.Reader
	n     int64
	short error
}

func (x *exactReader) Read(p []byte) (int, error) {
	if x.n == 0 {
		return 0, io.EOF
	}
	n, err := x.r.Read(p[:min(int64(len(p)), x.n)])
	x.n -= int64(n)
	if err == io.EOF && x.n > 0 {
		err = x.short
	}
	return n, err
}

// tocParser is one pass over a TOC's JSON.
type tocParser struct {
	scanner
	check   checker
	fn      func(*Entry) error
	holes   bool // chunkType is a key of the format
	entry   Entry
	version int64
	listed  bool // the entries were seen
}

func (p *tocParser) run() error {
	err := p.members(p.topKey)
	if err == nil {
		err = p.check.finish()
	}
	if err == nil && p.version != 1 {
		err = fmt.Errorf("%w: %d", ErrTOCVersion, p.version)
	}
	if err == nil {
		err = p.finish()
	}
	if err == nil || p.check.foreign {
		return err
	}
	return fmt.Errorf("TOC: %w", err)
}

func (p *tocParser) topKey(key []byte) error {
	version, entries := string(key) == "version", string(key) == "entries"
	if err := p.want(':'); err != nil {
		return err
	}
	switch {
	case version:
		v, err := p.int()
		p.version = v
		return err
	case entries:
		if p.listed {
			return p.syntax("a second list of entries")
		}
		p.listed = true
		return p.list('[', ']', p.readEntry)
	}
	return p.skip(1)
}

// readEntry reads one entry and hands it on.
func (p *tocParser) readEntry() error {
	p.entry = Entry{}
	err := p.members(p.entryKey)
	if err == nil {
		err = p.check.entry(&p.entry)
	}
	if err != nil {
		return p.check.locate(&p.entry, err)
	}
	if err := p.fn(&p.entry); err != nil {
		p.check.foreign = true
		return err
	}
	return nil
}
