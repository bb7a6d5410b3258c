package estargz

import (
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/nineply/nineply/internal/inflate"
)

// ReadTOC reads the TOC out of its gzip member, the bytes that
// [Footer.TOCRange] names, and calls fn for each entry in order. The result is
// the digest of exactly the bytes of the TOC's tar entry, for the caller to
// compare with the one it trusts before it believes any of the entries.
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
func ReadTOC(member []byte, footer Footer, lim Limits, fn func(*Entry) error) (Digest, error) {
	lim = lim.withDefaults()
	if int64(len(member)) > lim.TOCCompressed {
		return Digest{}, fmt.Errorf("TOC: %w: %d bytes", ErrTOCCompressedSize, len(member))
	}
	r, err := inflate.NewReader(member)
	if err != nil {
		return Digest{}, fmt.Errorf("TOC: %w", err)
	}
	digest, err := readTOC(r, footer, lim, fn)
	if cerr := r.Close(); err == nil && cerr != nil {
		return Digest{}, cerr
	}
	return digest, err
}

func readTOC(r io.Reader, footer Footer, lim Limits, fn func(*Entry) error) (Digest, error) {
	size, err := tocSize(r)
	if err != nil {
		return Digest{}, fmt.Errorf("TOC: %w", err)
	}
	if size > lim.TOCSize {
		return Digest{}, fmt.Errorf("TOC: %w: %d bytes, limit %d", ErrTOCSize, size, lim.TOCSize)
	}
	p := tocParser{
		scanner: scanner{r: &exactReader{r, size}, hash: sha256.New(), buf: make([]byte, scanBuffer)},
		check:   checker{lim: lim, end: footer.TOCOffset},
		fn:      fn,
	}
	if err := p.run(); err != nil {
		return Digest{}, err
	}
	return Digest(p.hash.Sum(nil)), nil
}

// exactReader reads n bytes and then [io.EOF]. That the source ends earlier is
// its error, not the end.
type exactReader struct {
	r io.Reader
	n int64
}

func (x *exactReader) Read(p []byte) (int, error) {
	if x.n == 0 {
		return 0, io.EOF
	}
	n, err := x.r.Read(p[:min(int64(len(p)), x.n)])
	x.n -= int64(n)
	if err == io.EOF && x.n > 0 {
		err = inflate.ErrShort
	}
	return n, err
}

// tocParser is one pass over a TOC's JSON.
type tocParser struct {
	scanner
	check   checker
	fn      func(*Entry) error
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
	if err := p.members(p.entryKey); err != nil {
		return p.check.locate(&p.entry, err)
	}
	if err := p.check.entry(&p.entry); err != nil {
		return p.check.locate(&p.entry, err)
	}
	if err := p.fn(&p.entry); err != nil {
		p.check.foreign = true
		return err
	}
	return nil
}
