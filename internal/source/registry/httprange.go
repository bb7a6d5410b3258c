package registry

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/nineply/nineply/internal/fserr"
)

// contentRange is a parsed Content-Range of bytes. Both ends are included, as in
// the header.
type contentRange struct {
	first, last int64
	// total is the size of the whole, -1 if the host does not say.
	total int64
}

// parseContentRange understands "bytes 0-99/200" and "bytes 0-99/*".
func parseContentRange(s string) (contentRange, bool) {
	unit, rest, ok := strings.Cut(strings.TrimSpace(s), " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return contentRange{}, false
	}
	span, total, ok := strings.Cut(strings.TrimSpace(rest), "/")
	if !ok {
		return contentRange{}, false
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return contentRange{}, false
	}
	c := contentRange{total: -1}
	if c.first, ok = parseNumber(first); !ok {
		return contentRange{}, false
	}
	if c.last, ok = parseNumber(last); !ok || c.last < c.first {
		return contentRange{}, false
	}
	if total != "*" {
		if c.total, ok = parseNumber(total); !ok || c.last >= c.total {
			return contentRange{}, false
		}
	}
	return c, true
}

// parseNumber takes digits only, unlike strconv.
func parseNumber(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// span is what to take from the body of an answer to a range request: n bytes
// after skip ones.
type span struct {
	skip, n int64
	// whole: the body is the whole blob, the host ignored the range.
	whole bool
}

// checkAnswer compares the answer to a request for the n bytes at off with what
// was asked. An answer for only the first part of the range is one too: HTTP
// allows it, and the rest is then asked for.
func checkAnswer(resp *http.Response, off, n, size int64) (span, error) {
	switch resp.StatusCode {
	case http.StatusOK:
		if resp.ContentLength >= 0 && resp.ContentLength != size {
			return span{}, failAgain(fserr.Corrupt, "the blob has %d bytes there, not %d", resp.ContentLength, size)
		}
		return span{skip: off, n: n, whole: true}, nil
	case http.StatusPartialContent:
	default:
		return span{}, answerFailure(resp)
	}
	header := resp.Header.Get("Content-Range")
	got, ok := parseContentRange(header)
	switch {
	case !ok:
		return span{}, failAgain(fserr.Corrupt, "unusable Content-Range %q", clip(header))
	case got.total >= 0 && got.total != size:
		return span{}, failAgain(fserr.Corrupt, "the blob has %d bytes there, not %d", got.total, size)
	case got.first != off || got.last >= off+n:
		return span{}, failAgain(fserr.Corrupt, "asked for bytes %d-%d, got Content-Range %q", off, off+n-1, clip(header))
	}
	length := got.last - got.first + 1
	if resp.ContentLength >= 0 && resp.ContentLength != length {
		return span{}, failAgain(fserr.Corrupt, "Content-Range %q, but a body of %d bytes", clip(header), resp.ContentLength)
	}
	return span{n: length}, nil
}

func clip(s string) string {
	if len(s) > 128 {
		return strings.ToValidUTF8(s[:128], "") + "..."
	}
	return s
}
