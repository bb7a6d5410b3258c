package testreg

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// Match picks requests. Zero fields match everything.
type Match struct {
	Method string
	// Digest of the blob or manifest asked for, by digest.
	Digest digest.Digest
	// Repo is the repository asked for.
	Repo string
	// Path is a part of the path, such as "/manifests/" or "/token".
	Path string
	// Storage matches only requests to the storage host; Registry only those to
	// the registry.
	Storage, Registry bool
}

func (m Match) matches(q *Request) bool {
	switch {
	case m.Method != "" && m.Method != q.Method,
		m.Digest != "" && m.Digest != q.Digest,
		m.Repo != "" && m.Repo != q.Repo,
		m.Path != "" && !strings.Contains(q.Path, m.Path),
		m.Storage && !q.Storage,
		m.Registry && q.Storage:
		return false
	}
	return true
}

// Exchange is a request being answered.
type Exchange struct {
	W http.ResponseWriter
	R *http.Request
	// Serve gives the proper answer.
	Serve http.HandlerFunc
	// Closing is closed when the registry ends.
	Closing <-chan struct{}
}

// Fault answers one request in place of the registry.
type Fault func(Exchange)

type rule struct {
	match  Match
	faults []Fault
	always bool
}

// On uses up the faults, in order, for the requests that match from now on.
func (r *Registry) On(m Match, faults ...Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = append(r.rules, &rule{match: m, faults: faults})
}

// Always uses the fault for every request that matches from now on.
func (r *Registry) Always(m Match, f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = append(r.rules, &rule{match: m, faults: []Fault{f}, always: true})
}

// Heal forgets all faults.
func (r *Registry) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = nil
}

// Times repeats a fault for [Registry.On].
func Times(n int, f Fault) []Fault {
	out := make([]Fault, n)
	for i := range out {
		out[i] = f
	}
	return out
}

func (r *Registry) fault(q *Request) Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rule := range r.rules {
		if len(rule.faults) == 0 || !rule.match.matches(q) {
			continue
		}
		f := rule.faults[0]
		if !rule.always {
			rule.faults = rule.faults[1:]
		}
		return f
	}
	return nil
}

// Pass answers properly: it lets a later fault wait for a later request.
func Pass() Fault { return func(x Exchange) { x.Serve(x.W, x.R) } }

// Status answers with a status and header fields, given as pairs.
func Status(code int, header ...string) Fault {
	return func(x Exchange) {
		for i := 0; i+1 < len(header); i += 2 {
			x.W.Header().Set(header[i], header[i+1])
		}
		refuse(x.W, code, "UNKNOWN", "scripted answer")
	}
}

// NotFound answers 404.
func NotFound() Fault { return Status(http.StatusNotFound) }

// TooMany answers 429 with Retry-After in whole seconds.
func TooMany(after time.Duration) Fault {
	return Status(http.StatusTooManyRequests, "Retry-After", strconv.Itoa(int(after/time.Second)))
}

// Redirect answers 307 to an address.
func Redirect(to string) Fault {
	return func(x Exchange) { http.Redirect(x.W, x.R, to, http.StatusTemporaryRedirect) }
}

// IgnoreRange answers 200 with the whole blob.
func IgnoreRange() Fault {
	return func(x Exchange) {
		x.R.Header.Del("Range")
		x.Serve(x.W, x.R)
	}
}

// proper is the answer without the fault.
func proper(x Exchange) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	x.Serve(rec, x.R)
	return rec
}

// send writes an answer whose declared length is that of body.
func send(x Exchange, rec *httptest.ResponseRecorder, body []byte) {
	for k, v := range rec.Header() {
		x.W.Header()[k] = v
	}
	x.W.Header().Set("Content-Length", strconv.Itoa(len(body)))
	x.W.WriteHeader(rec.Code)
	_, _ = x.W.Write(body)
}

// ShortBody declares the proper range but sends, and declares, only n bytes.
func ShortBody(n int) Fault {
	return func(x Exchange) {
		rec := proper(x)
		send(x, rec, rec.Body.Bytes()[:min(n, rec.Body.Len())])
	}
}

// ShortRange answers properly for only the first n bytes of the range: less
// than was asked, and honest about it.
func ShortRange(n int) Fault {
	return func(x Exchange) {
		var from, to int64
		if _, err := fmt.Sscanf(x.R.Header.Get("Range"), "bytes=%d-%d", &from, &to); err == nil && from+int64(n)-1 < to {
			x.R.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, from+int64(n)-1))
		}
		x.Serve(x.W, x.R)
	}
}

// LongBody sends, and declares, n bytes more than belong to the range.
func LongBody(n int) Fault {
	return func(x Exchange) {
		rec := proper(x)
		send(x, rec, append(rec.Body.Bytes(), bytes.Repeat([]byte{'+'}, n)...))
	}
}

// LongChunked is LongBody without a declared length.
func LongChunked(n int) Fault {
	return func(x Exchange) {
		rec := proper(x)
		for k, v := range rec.Header() {
			x.W.Header()[k] = v
		}
		x.W.Header().Del("Content-Length")
		x.W.WriteHeader(rec.Code)
		flush(x.W)
		_, _ = x.W.Write(append(rec.Body.Bytes(), bytes.Repeat([]byte{'+'}, n)...))
	}
}

// Shift answers for a range that begins n bytes later, and says so.
func Shift(n int64) Fault {
	return func(x Exchange) {
		var from, to int64
		if _, err := fmt.Sscanf(x.R.Header.Get("Range"), "bytes=%d-%d", &from, &to); err == nil {
			x.R.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from+n, to+n))
		}
		x.Serve(x.W, x.R)
	}
}

// ContentRange sends the right bytes under another Content-Range; an empty one
// is left out.
func ContentRange(value string) Fault {
	return func(x Exchange) {
		rec := proper(x)
		rec.Header().Set("Content-Range", value)
		if value == "" {
			rec.Header().Del("Content-Range")
		}
		send(x, rec, rec.Body.Bytes())
	}
}

// WrongBytes flips every bit of the first byte, and no length or header.
func WrongBytes() Fault {
	return func(x Exchange) {
		rec := proper(x)
		body := bytes.Clone(rec.Body.Bytes())
		if len(body) > 0 {
			body[0] ^= 0xff
		}
		send(x, rec, body)
	}
}

// begin sends the proper header and the first n bytes of the body.
func begin(x Exchange, n int) {
	rec := proper(x)
	for k, v := range rec.Header() {
		x.W.Header()[k] = v
	}
	x.W.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
	x.W.WriteHeader(rec.Code)
	_, _ = x.W.Write(rec.Body.Bytes()[:min(n, rec.Body.Len())])
	flush(x.W)
}

func flush(w http.ResponseWriter) {
	// A writer that cannot flush is not one of a server; the fault then only
	// loses its sharpness.
	_ = http.NewResponseController(w).Flush()
}

// Reset breaks the connection after n bytes of the body; below zero, before the
// header.
func Reset(n int) Fault {
	return func(x Exchange) {
		if n >= 0 {
			begin(x, n)
		}
		conn, _, err := http.NewResponseController(x.W).Hijack()
		if err != nil { // HTTP/2: the server resets the stream
			panic(http.ErrAbortHandler)
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

// Stall sends n bytes of the body and then nothing, until the client or the
// registry gives up; below zero, not even the header.
func Stall(n int) Fault {
	return func(x Exchange) {
		if n >= 0 {
			begin(x, n)
		}
		select {
		case <-x.R.Context().Done():
		case <-x.Closing:
		}
		panic(http.ErrAbortHandler)
	}
}
