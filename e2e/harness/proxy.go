package harness

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// Shape makes a fast local registry like a far one.
type Shape struct {
	Latency        time.Duration // added to every request
	BytesPerSecond int           // of all responses together, 0 for no limit
}

// Fault is what goes wrong with one request; the zero value is nothing.
type Fault struct {
	Status   int   // answer this status and nothing else
	CutAfter int64 // end the connection after that many bytes of the body
	Corrupt  bool  // flip a bit in every block of the body
}

// Count is what was served of one blob.
type Count struct {
	Requests int   // GET requests
	Bytes    int64 // of their bodies
}

// Counts is what a Proxy served.
type Counts struct {
	Requests  int              // of any kind
	Manifests int              // GET and HEAD of manifests
	Blobs     map[string]Count // by digest
}

// BlobBytes is the number of blob bytes served.
func (c Counts) BlobBytes() int64 {
	var sum int64
	for _, blob := range c.Blobs {
		sum += blob.Bytes
	}
	return sum
}

// BlobRequests is the number of GET requests for blobs.
func (c Counts) BlobRequests() int {
	var sum int
	for _, blob := range c.Blobs {
		sum += blob.Requests
	}
	return sum
}

// Proxy stands before a registry, counts what is read through it, and can slow
// it down or break it.
type Proxy struct {
	Addr    string // host:port, plain HTTP
	latency time.Duration
	limiter *rate.Limiter

	mu     sync.Mutex // guards what follows
	counts Counts
	fault  func(*http.Request) Fault
}

// burst is how many bytes pass the limiter at once.
const burst = 64 << 10

// StartProxy starts a proxy before the registry at upstream (host:port).
func StartProxy(t testing.TB, upstream string, shape Shape) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), latency: shape.Latency}
	if shape.BytesPerSecond > 0 {
		p.limiter = rate.NewLimiter(rate.Limit(shape.BytesPerSecond), burst)
	}
	p.Reset()
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	forward := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: upstream}) },
		Transport:      transport,
		ModifyResponse: p.wrap,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := &http.Server{Handler: p.handler(forward), ErrorLog: nil, ReadHeaderTimeout: readyTime}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		closeErr := server.Close()
		transport.CloseIdleConnections()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) || closeErr != nil {
			t.Errorf("proxy: %v, %v", err, closeErr)
		}
	})
	return p
}

// Counts is what was served since the start or the last Reset.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	counts := p.counts
	counts.Blobs = maps.Clone(p.counts.Blobs)
	return counts
}

// Reset starts counting anew.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts = Counts{Blobs: map[string]Count{}}
}

// SetFault decides for every further request what goes wrong; nil ends it.
func (p *Proxy) SetFault(fault func(*http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

type faultKey struct{}

func (p *Proxy) handler(forward http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fault := p.admit(r)
		if err := pause(r.Context(), p.latency); err != nil {
			return
		}
		if fault.Status != 0 {
			w.WriteHeader(fault.Status)
			return
		}
		forward.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), faultKey{}, fault)))
	})
}

// admit counts a request and asks what goes wrong with it.
func (p *Proxy) admit(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Requests++
	if strings.Contains(r.URL.Path, "/manifests/") {
		p.counts.Manifests++
	}
	if digest := blobDigest(r); digest != "" {
		count := p.counts.Blobs[digest]
		count.Requests++
		p.counts.Blobs[digest] = count
	}
	if p.fault == nil {
		return Fault{}
	}
	return p.fault(r)
}

// blobDigest is the digest of the blob that a request reads, or "".
func blobDigest(r *http.Request) string {
	if r.Method != http.MethodGet {
		return ""
	}
	_, digest, _ := strings.Cut(r.URL.Path, "/blobs/")
	if !strings.Contains(digest, ":") {
		return ""
	}
	return digest
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wrap has the body of a response counted, slowed down and damaged.
func (p *Proxy) wrap(r *http.Response) error {
	fault, ok := r.Request.Context().Value(faultKey{}).(Fault)
	if !ok {
		return errors.New("request without its fault")
	}
	r.Body = &body{ReadCloser: r.Body, proxy: p, ctx: r.Request.Context(), digest: blobDigest(r.Request), fault: fault}
	return nil
}

type body struct {
	io.ReadCloser
	proxy  *Proxy
	ctx    context.Context
	digest string
	fault  Fault
	n      int64
}

var errCut = errors.New("connection cut")

func (b *body) Read(p []byte) (int, error) {
	if cut := b.fault.CutAfter; cut > 0 {
		if b.n >= cut {
			return 0, errCut
		}
		p = p[:min(int64(len(p)), cut-b.n)]
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), burst)])
	b.n += int64(n)
	if b.fault.Corrupt && n > 0 {
		p[n/2] ^= 1
	}
	if b.proxy.limiter != nil && n > 0 {
		if err := b.proxy.limiter.WaitN(b.ctx, n); err != nil {
			return n, err
		}
	}
	b.proxy.served(b.digest, n)
	return n, err
}

func (p *Proxy) served(digest string, n int) {
	if digest == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	count := p.counts.Blobs[digest]
	count.Bytes += int64(n)
	p.counts.Blobs[digest] = count
}
