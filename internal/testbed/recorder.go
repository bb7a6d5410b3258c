package testbed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxRequests bounds what a Recorder remembers.
const maxRequests = 1 << 16

// Request is one that a Recorder saw.
type Request struct {
	Method, Path string
	// From and To are the range of a blob asked for, [From, To); To is -1 for the
	// rest. Without a Range they are 0 and -1.
	From, To int64
	Status   int
	Bytes    int64 // of the body, as far as it was sent
	// Began is when the request had come, Answered when the header of the answer
	// was there, Ended when the body had been handed on. The latter two are zero
	// until then.
	Began, Answered, Ended time.Time
}

// Recorder passes requests on to a registry and writes them down.
type Recorder struct {
	Addr string // host:port, plain HTTP
	srv  *http.Server
	rt   *http.Transport
	done chan error

	single atomic.Bool

	mu       sync.Mutex
	requests []*Request
	bytes    int64 // of blobs and manifests
}

// StartRecorder starts a recorder before a registry.
func (b *Bed) StartRecorder(ctx context.Context, upstream string) (*Recorder, error) {
	r, err := startRecorder(ctx, upstream)
	if err == nil {
		b.OnClose(r.close)
	}
	return r, err
}

func startRecorder(ctx context.Context, upstream string) (*Recorder, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("recorder: %w", err)
	}
	r := &Recorder{
		Addr: ln.Addr().String(), done: make(chan error, 1),
		rt: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true, ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10},
	}
	rp := &httputil.ReverseProxy{
		// The host stays the client's, so that the registry's redirects lead back.
		Rewrite: func(q *httputil.ProxyRequest) {
			q.Out.URL = &url.URL{Scheme: "http", Host: upstream, Path: q.In.URL.Path, RawQuery: q.In.URL.RawQuery}
			q.Out.Host = q.In.Host
			if r.single.Load() && strings.Contains(q.In.Header.Get("Range"), ",") {
				q.Out.Header.Del("Range")
			}
		},
		Transport:      r.rt,
		BufferPool:     &buffers{},
		ModifyResponse: r.answered,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		rec := r.record(q)
		defer r.update(func() { rec.Ended = time.Now() })
		rp.ServeHTTP(w, q.WithContext(context.WithValue(q.Context(), recordKey{}, rec)))
	})
	r.srv = &http.Server{Handler: handler, ReadHeaderTimeout: startTimeout}
	go func() { r.done <- r.srv.Serve(ln) }()
	return r, nil
}

type recordKey struct{}

func (r *Recorder) record(q *http.Request) *Request {
	rec := &Request{Method: q.Method, Path: q.URL.Path, To: -1, Began: time.Now()}
	if spec, ok := strings.CutPrefix(q.Header.Get("Range"), "bytes="); ok {
		var last int64
		if n, _ := fmt.Sscanf(spec, "%d-%d", &rec.From, &last); n == 2 {
			rec.To = last + 1
		}
	}
	r.update(func() {
		if len(r.requests) < maxRequests {
			r.requests = append(r.requests, rec)
		}
	})
	return rec
}

// answered notes the header of an answer, and has its body counted.
func (r *Recorder) answered(resp *http.Response) error {
	rec, ok := resp.Request.Context().Value(recordKey{}).(*Request)
	if !ok {
		return errors.New("a request without its record")
	}
	r.update(func() { rec.Answered, rec.Status = time.Now(), resp.StatusCode })
	resp.Body = &countedBody{resp.Body, r, rec}
	return nil
}

func (r *Recorder) update(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
}

// Bytes is the size of all bodies since the last Reset.
func (r *Recorder) Bytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// Requests lists the requests since the last Reset as they are now, in the order
// in which they came.
func (r *Recorder) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Request, len(r.requests))
	for i, rec := range r.requests {
		list[i] = *rec
	}
	slices.SortStableFunc(list, func(a, b Request) int { return cmp.Compare(a.Began.UnixNano(), b.Began.UnixNano()) })
	return list
}

// SingleRanges says whether requests for several ranges are answered with the whole
// blob, as many registries and their storage do.
func (r *Recorder) SingleRanges(only bool) { r.single.Store(only) }

// Reset forgets all requests.
func (r *Recorder) Reset() {
	r.update(func() { r.requests, r.bytes = nil, 0 })
}

func (r *Recorder) close() error {
	err := r.srv.Close()
	if serr := <-r.done; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	r.rt.CloseIdleConnections()
	return err
}

type countedBody struct {
	io.ReadCloser
	recorder *Recorder
	record   *Request
}

// Read implements io.Reader.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.recorder.update(func() {
		b.record.Bytes += int64(n)
		b.recorder.bytes += int64(n)
	})
	return n, err
}

// buffers are what bodies are copied through.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 64<<10)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
