package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// maxRanges bounds the ranges of one request: hosts refuse long lists.
const maxRanges = 32

var _ source.MultiRanger = (*blob)(nil)

// OpenRanges implements [source.MultiRanger]. Many hosts answer a request for
// several ranges with the whole blob, or not at all; that is remembered for a while.
func (b *blob) OpenRanges(ctx context.Context, ranges []source.Span) (io.ReadCloser, error) {
	if len(ranges) < 2 || len(ranges) > maxRanges {
		return nil, fserr.Newf(fserr.Unsupported, "read", b.object(), "%d ranges at once", len(ranges))
	}
	end := int64(0)
	for _, r := range ranges {
		if err := source.CheckRange(b.object(), b.size, r.Lo, r.Hi-r.Lo); err != nil {
			return nil, err
		}
		if r.Lo < end || r.Hi == r.Lo {
			return nil, fserr.Newf(fserr.Invalid, "read", b.object(), "range [%d,%d) after %d", r.Lo, r.Hi, end)
		}
		end = r.Hi
	}
	eps, err := b.endpoints()
	if err != nil {
		return nil, err
	}
	var parts *parts
	err = b.registry.run(ctx, task{
		op: "read", object: fmt.Sprintf("%s, %d ranges", b.object(), len(ranges)), endpoints: eps, rank: b.badness,
		try: func(ctx context.Context, e *endpoint) (err error) {
			parts, err = b.openParts(ctx, e, ranges)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return parts, nil
}

// openParts asks one host.
func (b *blob) openParts(ctx context.Context, e *endpoint, ranges []source.Span) (*parts, error) {
	if e.multi(time.Now()) == multiRefused {
		return nil, errNoMulti
	}
	resp, err := b.get(ctx, e, rangesHeader(ranges))
	if err != nil {
		return nil, err
	}
	p := &parts{blob: b, host: e, body: resp.Body, ranges: ranges}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		err = p.begin(resp.Header.Get("Content-Type"))
	case http.StatusOK, http.StatusRequestedRangeNotSatisfiable, http.StatusBadRequest:
		err = errNoMulti
	default:
		err = answerFailure(resp.Response)
	}
	if err != nil {
		_ = resp.Body.Close() // the error that counts is known
		if errors.Is(err, errNoMulti) {
			e.setMulti(false)
		}
		return nil, err
	}
	e.setMulti(true)
	return p, nil
}

// rangesHeader is the Range to ask for.
func rangesHeader(ranges []source.Span) string {
	texts := make([]string, len(ranges))
	for i, r := range ranges {
		texts[i] = fmt.Sprintf("%d-%d", r.Lo, r.Hi-1)
	}
	return "bytes=" + strings.Join(texts, ",")
}

var errNoMulti = fail(fserr.Unsupported, "the host does not answer requests for several ranges")

// parts is an answer with several ranges.
type parts struct {
	blob   *blob
	host   *endpoint
	body   io.ReadCloser
	reader *multipart.Reader
	ranges []source.Span // to come, the first being read
	part   io.Reader
	left   int64 // of the part
}

// begin finds the first range.
func (p *parts) begin(contentType string) error {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil || media != "multipart/byteranges" || params["boundary"] == "" {
		return errNoMulti
	}
	p.reader = multipart.NewReader(p.body, params["boundary"])
	if err := p.next(); err != nil {
		return errNoMulti
	}
	return nil
}

// next goes on to the first of the ranges to come. A host may join ranges or
// answer them in another order, which nobody here has a use for.
func (p *parts) next() error {
	part, err := p.reader.NextRawPart()
	if err != nil {
		return bodyFailure(err)
	}
	header := part.Header.Get("Content-Range")
	got, ok := parseContentRange(header)
	want := p.ranges[0]
	switch {
	case !ok || got.first != want.Lo || got.last != want.Hi-1:
		return failAgain(fserr.Corrupt, "asked for bytes %d-%d, got Content-Range %q", want.Lo, want.Hi-1, clip(header))
	case got.total >= 0 && got.total != p.blob.size:
		return fail(fserr.Corrupt, "the blob has %d bytes there, not %d", got.total, p.blob.size)
	}
	p.part, p.left = part, want.Hi-want.Lo
	return nil
}

// Read implements io.Reader.
func (p *parts) Read(b []byte) (int, error) {
	if p.left == 0 {
		if p.ranges = p.ranges[1:]; len(p.ranges) == 0 {
			p.ranges = make([]source.Span, 1) // it may be read once more
			return 0, io.EOF
		}
		if err := p.next(); err != nil {
			return 0, p.failed(err)
		}
	}
	n, err := p.part.Read(b[:min(int64(len(b)), p.left)])
	p.left -= int64(n)
	if err != nil && p.left > 0 {
		return n, p.failed(bodyFailure(err))
	}
	return n, nil
}

func (p *parts) failed(err error) error {
	f := asFailure(err)
	return fserr.New(f.kind, "read", p.blob.object(), f)
}

// Close implements io.Closer.
func (p *parts) Close() error { return p.body.Close() }
