package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/hosts"
)

const (
	// goodProgress is how much one request must bring so that a broken one is
	// continued without counting.
	goodProgress = 64 << 10
	// maxPoor is how often a request may break with less.
	maxPoor = 8
	// maxKnown bounds what a blob remembers of hosts, if their configuration
	// keeps changing.
	maxKnown = 64
)

// blob is a blob of a repository. What it learns about hosts is kept here.
type blob struct {
	registry *Registry
	ref      source.Reference
	digest   digest.Digest
	size     int64

	mu    sync.Mutex
	known map[*endpoint]*knowledge
}

// knowledge is what a blob knows of a host.
type knowledge struct {
	// bad counts the reads whose bytes failed verification.
	bad int
}

var (
	_ source.VerifiedReader = (*blob)(nil)
	_ source.Coster         = (*blob)(nil)
)

// Blob implements [source.Repository].
func (r *Registry) Blob(ctx context.Context, ref string, desc ocispec.Descriptor) (source.Blob, error) {
	parsed, err := source.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	return r.blob(ctx, parsed, desc)
}

func (r *Registry) blob(ctx context.Context, ref source.Reference, desc ocispec.Descriptor) (*blob, error) {
	if err := source.CheckDigest(desc.Digest); err != nil {
		return nil, err
	}
	b := &blob{registry: r, ref: ref, digest: desc.Digest, size: desc.Size, known: map[*endpoint]*knowledge{}}
	if desc.Size < 0 {
		return nil, fserr.Newf(fserr.Invalid, "open", b.object(), "negative size")
	}
	if desc.Size == 0 && desc.Digest != desc.Digest.Algorithm().FromBytes(nil) {
		size, err := b.findSize(ctx)
		if err != nil {
			return nil, err
		}
		b.size = size
	}
	return b, nil
}

// object names the blob in errors.
func (b *blob) object() string { return b.ref.String() + " blob " + b.digest.String() }

// Size implements [source.Blob].
func (b *blob) Size() int64 { return b.size }

// Cost implements [source.Coster]: that of the host asked first.
func (b *blob) Cost() (source.Cost, bool) {
	eps, err := b.endpoints()
	if err != nil || len(eps) == 0 {
		return source.Cost{}, false
	}
	return b.link(eps[0]).cost()
}

func (b *blob) endpoints() ([]*endpoint, error) {
	all, err := b.registry.endpoints(b.ref.Host)
	if err != nil {
		return nil, err
	}
	return capable(all, hosts.Pull), nil
}

// findSize is for a blob whose descriptor does not tell.
func (b *blob) findSize(ctx context.Context) (int64, error) {
	eps, err := b.endpoints()
	if err != nil {
		return 0, err
	}
	size := int64(-1)
	err = b.registry.run(ctx, task{
		op: "find size of", object: b.object(), endpoints: eps,
		try: func(ctx context.Context, e *endpoint) error {
			var err error
			size, err = b.sizeAt(ctx, e)
			return err
		},
	})
	return size, err
}

func (b *blob) sizeAt(ctx context.Context, e *endpoint) (int64, error) {
	resp, err := e.exchange(ctx, b.request(e, http.MethodHead, ""))
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, answerFailure(resp.Response)
	}
	discard(resp.Response)
	if resp.ContentLength >= 0 {
		return resp.ContentLength, nil
	}
	resp, err = e.exchange(ctx, b.request(e, http.MethodGet, "bytes=0-0"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // its connection may be lost
	got, ok := parseContentRange(resp.Header.Get("Content-Range"))
	switch {
	case resp.StatusCode == http.StatusPartialContent && ok && got.total >= 0:
		return got.total, nil
	case resp.StatusCode == http.StatusOK && resp.ContentLength >= 0:
		return resp.ContentLength, nil
	case resp.StatusCode >= 400:
		return 0, answerFailure(resp.Response)
	}
	return 0, fail(fserr.Unsupported, "the host does not tell the size")
}

func (b *blob) request(e *endpoint, method, ranges string) request {
	rq := request{
		method: method, url: e.url(b.ref.Repository, "blobs", b.digest.String()),
		header:     http.Header{"Accept": {acceptAny}},
		repository: b.ref.Repository, actions: actionsPull,
	}
	if ranges != "" {
		rq.header.Set("Range", ranges)
	}
	return rq
}

// ReadRange implements [source.Blob].
func (b *blob) ReadRange(ctx context.Context, off int64, p []byte) error {
	_, err := b.read(ctx, off, p)
	return err
}

// ReadVerified implements [source.VerifiedReader]. Hosts whose bytes fail are
// asked last from then on. Each host has one chance, and one of them a second.
func (b *blob) ReadVerified(ctx context.Context, off int64, p []byte, verify func([]byte) error) error {
	var failed error
	for tries := 0; ; tries++ {
		served, err := b.read(ctx, off, p)
		if err != nil {
			return err
		}
		if failed = verify(p); failed == nil {
			return nil
		}
		for _, e := range served {
			b.distrust(e)
		}
		eps, err := b.endpoints()
		if err != nil {
			return err
		}
		if tries >= len(eps) {
			break
		}
	}
	return fserr.New(fserr.Corrupt, "verify", fmt.Sprintf("%s range [%d,%d)", b.object(), off, off+int64(len(p))), failed)
}

// read fills p, and tells which hosts the bytes came from.
func (b *blob) read(ctx context.Context, off int64, p []byte) ([]*endpoint, error) {
	object := fmt.Sprintf("%s range [%d,+%d)", b.object(), off, len(p))
	if err := source.CheckRange(object, b.size, off, int64(len(p))); err != nil {
		return nil, err
	}
	if len(p) == 0 {
		return nil, nil
	}
	eps, err := b.endpoints()
	if err != nil {
		return nil, err
	}
	f := filling{blob: b, off: off, p: p}
	end := off + int64(len(p))
	now := time.Now()
	err = b.registry.run(ctx, task{
		op: "read", object: object, endpoints: eps, try: f.fill,
		rank: func(e *endpoint) int {
			rank := 2 * b.badness(e)
			if end > b.registry.opts.ReadThrough && e.noRanges(now) {
				rank++
			}
			return rank
		},
	})
	return f.served, err
}

// filling is a range being read: possibly in pieces, from several hosts.
type filling struct {
	blob   *blob
	off    int64
	p      []byte
	done   int
	served []*endpoint
}

// fill reads what is missing from one host, and goes on where a body broke as
// long as that brings something.
func (f *filling) fill(ctx context.Context, e *endpoint) error {
	start := f.done
	defer func() {
		if f.done > start {
			f.served = append(f.served, e)
		}
	}()
	for poor := 0; f.done < len(f.p); {
		n, err := f.once(ctx, e)
		f.done += n
		if err != nil && !goesOn(n, err) {
			return err
		}
		if n < goodProgress && f.done < len(f.p) {
			if poor++; poor > maxPoor {
				return failAgain(fserr.Unavailable, "the host breaks off again and again: %w", errOr(err, io.ErrUnexpectedEOF))
			}
		}
	}
	return nil
}

// goesOn reports whether the same host is asked for the rest at once, n bytes having
// come.
func goesOn(n int, err error) bool {
	failed := asFailure(err)
	if n < goodProgress && errors.Is(err, errStalled) {
		return false // a host that stalls again and again would take its time for each piece
	}
	return failed.behind || n > 0 && failed.retry
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// once makes one request for what is missing. It returns how much came, which
// are right bytes also when an error follows.
func (f *filling) once(ctx context.Context, e *endpoint) (int, error) {
	off, p := f.off+int64(f.done), f.p[f.done:]
	limit := e.registry.opts.ReadThrough
	tooFar := off > 0 && off+int64(len(p)) > limit
	if tooFar && e.noRanges(time.Now()) {
		return 0, errNoRanges(limit)
	}
	resp, err := f.blob.ask(ctx, e, fmt.Sprintf("bytes=%d-%d", off, off+int64(len(p))-1))
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // whatever it says, the bytes are here or not
	part, err := checkAnswer(resp.Response, off, int64(len(p)), f.blob.size)
	if err != nil {
		return 0, err
	}
	if part.whole && (off > 0 || int64(len(p)) < f.blob.size) {
		e.setNoRanges()
		if tooFar {
			return 0, errNoRanges(limit)
		}
	}
	if _, err := io.CopyN(io.Discard, resp.Body, part.skip); err != nil {
		return 0, bodyFailure(err)
	}
	n, err := io.ReadFull(resp.Body, p[:part.n])
	if err != nil {
		return n, bodyFailure(err)
	}
	if resp.ContentLength < 0 && !part.whole && trailing(resp.Body) {
		return 0, failAgain(fserr.Corrupt, "the body is longer than its Content-Range")
	}
	return n, nil
}

func errNoRanges(limit int64) error {
	return fail(fserr.Unsupported, "the host ignores range requests, and the range ends beyond the %d bytes that are read through for one", limit)
}

// bodyFailure judges an error of reading a body that should have been longer.
func bodyFailure(err error) error {
	if f, ok := judged(err); ok {
		return f
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return failAgain(fserr.Unavailable, "the body ended early: %w", io.ErrUnexpectedEOF)
	}
	return failAgain(fserr.Unavailable, "read body: %w", err)
}

// trailing reports whether a body goes on.
func trailing(r io.Reader) bool {
	var one [1]byte
	n, _ := r.Read(one[:]) // an error after all that was wanted does no harm
	return n > 0
}

// get asks a host for a range, where it sent us last time if that still works.
func (b *blob) get(ctx context.Context, e *endpoint, ranges string) (*answer, error) {
	rq := b.request(e, http.MethodGet, ranges)
	known, at := &b.registry.locations, b.place(e)
	if u := known.get(at, b.registry.now()); u != nil {
		away := rq
		away.url = u
		resp, err := e.follow(ctx, away, true)
		if err == nil && !refused(resp.StatusCode) {
			return resp, nil
		}
		known.drop(at, u)
		if ctx.Err() != nil {
			return nil, err
		}
		if err == nil {
			discard(resp.Response)
		}
	}
	resp, err := e.exchange(ctx, rq)
	if err == nil && resp.location != nil && resp.StatusCode < 300 {
		known.put(at, resp.location, b.registry.now())
	}
	return resp, err
}

// place is the blob at a host.
func (b *blob) place(e *endpoint) place { return place{e, b.ref.Repository, b.digest.String()} }

// refused reports the answer of a storage host that a new address may change:
// anything but bytes, and what says that the host is busy or the range is wrong.
func refused(status int) bool {
	return status >= 300 && status != http.StatusRequestedRangeNotSatisfiable && status != http.StatusTooManyRequests
}

// know gives what is known of a host; the caller holds mu.
func (b *blob) know(e *endpoint) *knowledge {
	k := b.known[e]
	if k == nil {
		if len(b.known) >= maxKnown {
			clear(b.known)
		}
		k = &knowledge{}
		b.known[e] = k
	}
	return k
}

func (b *blob) badness(e *endpoint) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if k := b.known[e]; k != nil {
		return k.bad
	}
	return 0
}

func (b *blob) distrust(e *endpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.know(e).bad++
	b.registry.locations.drop(b.place(e), nil)
}
