package testreg

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxLog bounds the requests remembered one by one.
const maxLog = 16384

// Registry is a running registry. Its methods are safe for concurrent use.
type Registry struct {
	tb      testing.TB
	opts    options
	server  *httptest.Server
	storage *httptest.Server // nil without WithRedirects
	closing chan struct{}

	mu        sync.Mutex
	blobs     map[digest.Digest]*blob
	manifests map[string]manifest // "repository@digest" and "repository:tag"
	uploads   map[string]*upload
	nextID    int
	rules     []*rule
	log       []*Request
	dropped   int
	tokens    map[string]token
	signature int
}

type blob struct {
	data  []byte
	repos map[string]bool // nil: in every repository
}

type manifest struct {
	mediaType string
	data      []byte
	digest    digest.Digest
}

type options struct {
	tls        bool
	redirects  bool
	auth       string // "", "basic", "bearer"
	user, pass string
	tokenScope string
	noHEADSize bool
}

// Option changes how a Registry is set up.
type Option func(*options)

// WithTLS serves https with a certificate of its own; see [Registry.CA].
func WithTLS() Option { return func(o *options) { o.tls = true } }

// WithRedirects answers blob requests with a redirect to a second server, whose
// addresses hold a signature that expires; see [Registry.ExpireRedirects].
func WithRedirects() Option { return func(o *options) { o.redirects = true } }

// WithBasic asks for basic authentication.
func WithBasic(user, pass string) Option {
	return func(o *options) { o.auth, o.user, o.pass = "basic", user, pass }
}

// WithBearer asks for tokens. An empty user lets anybody have one. The password
// is accepted as a refresh token too.
func WithBearer(user, pass string) Option {
	return func(o *options) { o.auth, o.user, o.pass = "bearer", user, pass }
}

// WithTokenScope makes challenges name this scope instead of the repository's,
// as a proxying registry does.
func WithTokenScope(scope string) Option { return func(o *options) { o.tokenScope = scope } }

// WithoutHeadSize leaves Content-Length out of answers to HEAD.
func WithoutHeadSize() Option { return func(o *options) { o.noHEADSize = true } }

// New starts a registry that ends with the test.
func New(tb testing.TB, opts ...Option) *Registry {
	tb.Helper()
	r := &Registry{
		tb:        tb,
		closing:   make(chan struct{}),
		blobs:     map[digest.Digest]*blob{},
		manifests: map[string]manifest{},
		uploads:   map[string]*upload{},
		tokens:    map[string]token{},
	}
	for _, o := range opts {
		o(&r.opts)
	}
	start := httptest.NewUnstartedServer
	r.server = start(r.handler(r.serve, false))
	if r.opts.redirects {
		r.storage = start(r.handler(r.serveStorage, true))
	}
	for _, s := range []*httptest.Server{r.server, r.storage} {
		if s == nil {
			continue
		}
		s.Config.ErrorLog = quietLog()
		if r.opts.tls {
			s.EnableHTTP2 = true
			s.StartTLS()
		} else {
			s.Start()
		}
	}
	tb.Cleanup(r.Close)
	return r
}

// Close ends the registry and every connection to it, stalled ones included. It
// is called at the end of the test, and may be called before.
func (r *Registry) Close() {
	r.mu.Lock()
	select {
	case <-r.closing:
		r.mu.Unlock()
		return
	default:
	}
	close(r.closing)
	r.mu.Unlock()
	for _, s := range []*httptest.Server{r.server, r.storage} {
		if s != nil {
			s.CloseClientConnections()
			s.Close()
		}
	}
}

// Host is the address of the registry, such as "127.0.0.1:34567".
func (r *Registry) Host() string { return hostOf(r.server.URL) }

// StorageHost is the address blob requests are redirected to.
func (r *Registry) StorageHost() string {
	if r.storage == nil {
		return ""
	}
	return hostOf(r.storage.URL)
}

// URL is the registry's root, such as "http://127.0.0.1:34567".
func (r *Registry) URL() string { return r.server.URL }

// Ref is a reference to a tag, or to a digest if target has a colon.
func (r *Registry) Ref(repo, target string) string {
	if strings.Contains(target, ":") {
		return r.Host() + "/" + repo + "@" + target
	}
	return r.Host() + "/" + repo + ":" + target
}

// CA is the certificate of a registry with TLS, in PEM.
func (r *Registry) CA() []byte {
	if !r.opts.tls {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw})
}

// Request is one request as it came in.
type Request struct {
	Method, Path, Query string
	// Repo, Digest and Target are parts of Path: what is asked for.
	Repo   string
	Digest digest.Digest
	Target string
	Header http.Header
	// Storage: it came to the storage host.
	Storage bool
	Status  int
	// Bytes of the answer's body.
	Bytes int64
	// Received are the bytes of the request's body.
	Received int64
}

// Requests lists the requests so far that match, in the order in which they
// came. Whatever a client has received of an answer is counted already.
func (r *Registry) Requests(m Match) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dropped > 0 {
		r.tb.Logf("testreg: %d requests were not recorded", r.dropped)
	}
	var out []Request
	for i := range r.log {
		if m.matches(r.log[i]) {
			out = append(out, *r.log[i])
		}
	}
	return out
}

// Traffic is a number of requests and the bytes of their answers.
type Traffic struct {
	Requests int
	Bytes    int64
}

// Count sums up the requests so far that match.
func (r *Registry) Count(m Match) Traffic {
	var t Traffic
	for _, q := range r.Requests(m) {
		t.Requests++
		t.Bytes += q.Bytes
	}
	return t
}

// ResetCounts forgets all requests so far.
func (r *Registry) ResetCounts() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log, r.dropped = nil, 0
}

// record notes a request when it comes. What is found out about it later is
// added with update.
func (r *Registry) record(q *Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.log) >= maxLog {
		r.dropped++
		return
	}
	r.log = append(r.log, q)
}

func (r *Registry) update(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// Blob gives the content of a blob that a repository holds.
func (r *Registry) Blob(repo string, d digest.Digest) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.blobs[d]
	if b == nil || (b.repos != nil && !b.repos[repo]) {
		return nil, false
	}
	return b.data, true
}

// Manifest gives a manifest by tag or digest.
func (r *Registry) Manifest(repo, target string) (ocispec.Descriptor, []byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.manifests[manifestKey(repo, target)]
	if !ok {
		return ocispec.Descriptor{}, nil, false
	}
	return ocispec.Descriptor{MediaType: m.mediaType, Digest: m.digest, Size: int64(len(m.data))}, m.data, true
}

func manifestKey(repo, target string) string {
	if strings.Contains(target, ":") {
		return repo + "@" + target
	}
	return repo + ":" + target
}

func hostOf(url string) string {
	_, host, _ := strings.Cut(url, "://")
	return host
}
