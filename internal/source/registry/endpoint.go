package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source/hosts"
)

const (
	// maxSessions bounds the repositories of a host whose tokens are kept.
	maxSessions = 128
	// penalty is how long a host that failed is asked after the others.
	penalty = 10 * time.Second
	// rangeMemory is how long a host is remembered to ignore Range.
	rangeMemory = 10 * time.Minute
	// maxTokenRedirects bounds the redirects of a token request.
	maxTokenRedirects = 5
)

// endpoint is one host to ask, with its connections and tokens.
type endpoint struct {
	hosts.Host
	registry *Registry
	// namespace is the registry as references name it.
	namespace string
	base      *url.URL

	// own is for the host itself; sibling for another port of it; away for
	// anybody else. Only own shows a client certificate, and only own and
	// sibling skip verification where that is configured.
	own, sibling, away *http.Client
	transports         []*http.Transport // made for this endpoint alone
	dialer             *spareDialer      // of own

	downUntil     atomic.Int64 // unix nanoseconds
	noRangesUntil atomic.Int64
	multiUntil    atomic.Int64 // that it takes several ranges at once; negative: that it does not
	prepared      atomic.Int64 // when connections were made ahead

	challenge atomic.Pointer[string] // what the host asks for, learned

	mu           sync.Mutex
	sessions     map[string]*session // by repository and right
	sessionOrder []string            // oldest first
}

func (r *Registry) newEndpoint(registry string, h hosts.Host) (*endpoint, error) {
	e := &endpoint{
		Host: h, registry: r, namespace: registry, base: h.URL(),
		sessions: map[string]*session{},
	}
	own, sibling, away := r.shared, r.shared, r.shared
	e.dialer = r.dialer
	if len(h.CA) > 0 || len(h.Client) > 0 || h.SkipVerify || h.DialTimeout > 0 {
		roots, err := loadRoots(h.CA)
		if err != nil {
			return nil, fserr.New(fserr.Invalid, "configure host", h.Addr, err)
		}
		if err := checkPairs(h.Client); err != nil {
			return nil, fserr.New(fserr.Invalid, "configure host", h.Addr, err)
		}
		dial := h.DialTimeout
		if dial == 0 {
			dial = r.opts.DialTimeout
		}
		ownTLS := &tls.Config{RootCAs: roots, InsecureSkipVerify: h.SkipVerify}
		if len(h.Client) > 0 {
			ownTLS.GetClientCertificate = clientCertificate(h.Client)
		}
		e.dialer = newDialer(dial)
		own = newTransport(ownTLS, e.dialer)
		sibling = newTransport(&tls.Config{RootCAs: roots, InsecureSkipVerify: h.SkipVerify}, newDialer(dial))
		away = newTransport(&tls.Config{RootCAs: roots}, newDialer(dial))
		e.transports = []*http.Transport{own, sibling, away}
	}
	e.own = &http.Client{Transport: counting{own, r}, CheckRedirect: checkRedirect}
	e.sibling = &http.Client{Transport: counting{sibling, r}, CheckRedirect: neverRedirect}
	e.away = &http.Client{Transport: counting{away, r}, CheckRedirect: neverRedirect}
	return e, nil
}

func (e *endpoint) closeIdle() {
	for _, t := range e.transports {
		t.CloseIdleConnections()
	}
}

// counting counts every request, those of the auth client included, and learns how
// long answers take.
type counting struct {
	*http.Transport
	registry *Registry
}

// RoundTrip implements http.RoundTripper.
func (c counting) RoundTrip(req *http.Request) (*http.Response, error) {
	c.registry.stats.Host(req.URL.Host).Requests.Add(1)
	if req.Method != http.MethodGet {
		return c.Transport.RoundTrip(req)
	}
	l := c.registry.links.of(req.URL.Host)
	reused := false
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
	began := time.Now()
	resp, err := c.Transport.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err == nil {
		now := time.Now()
		l.judged(now, resp.StatusCode)
		if reused && resp.StatusCode < http.StatusMultipleChoices {
			l.answered(now, now.Sub(began))
		}
	}
	return resp, err
}

func newDialer(timeout time.Duration) *spareDialer {
	return &spareDialer{Dialer: net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}, life: spareLife}
}

func newTransport(tlsConfig *tls.Config, dialer *spareDialer) *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		// A connection that died silently is found out before it has stalled a
		// second request.
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		MaxIdleConns:           128,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		ReadBufferSize:         32 << 10,
		WriteBufferSize:        32 << 10,
		// A layer is compressed already, and a range is of the stored bytes.
		DisableCompression: true,
	}
}

func neverRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// checkRedirect leaves redirects of our requests to exchange, which knows what
// may follow them. Token requests, made by the auth client, are those without
// Accept; that client guards where they lead.
func checkRedirect(_ *http.Request, via []*http.Request) error {
	if via[0].Header.Get("Accept") != "" {
		return http.ErrUseLastResponse
	}
	if len(via) > maxTokenRedirects {
		return fmt.Errorf("more than %d redirects of a token request", maxTokenRedirects)
	}
	return nil
}

func loadRoots(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, nil // the system's
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read CA certificate: %w", err)
		}
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("no CA certificate in %s", f)
		}
	}
	return pool, nil
}

func loadPair(pair [2]string) (tls.Certificate, error) {
	key := pair[1]
	if key == "" {
		key = pair[0]
	}
	c, err := tls.LoadX509KeyPair(pair[0], key)
	if err != nil {
		return c, fmt.Errorf("client certificate %s: %w", pair[0], err)
	}
	return c, nil
}

func checkPairs(pairs [][2]string) error {
	for _, p := range pairs {
		if _, err := loadPair(p); err != nil {
			return err
		}
	}
	return nil
}

// clientCertificate reads the files at each handshake, so that renewed ones are
// taken.
func clientCertificate(pairs [][2]string) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		for _, p := range pairs {
			c, err := loadPair(p)
			if err != nil {
				return nil, err
			}
			if info.SupportsCertificate(&c) == nil {
				return &c, nil
			}
		}
		return &tls.Certificate{}, nil
	}
}

// client gives what to reach target with, once the endpoint's own origin has
// been left.
func (e *endpoint) client(target *url.URL) *http.Client {
	if strings.EqualFold(target.Hostname(), e.base.Hostname()) {
		return e.sibling
	}
	return e.away
}

// realmPrefixes are addresses that a host may not send us to for a token. A
// registry on this machine may name this machine.
func realmPrefixes(addr string) []netip.Prefix {
	blocked := auth.DefaultBlockedRealmPrefixes()
	if !hosts.IsLoopback(addr) {
		return blocked
	}
	return slices.DeleteFunc(blocked, func(p netip.Prefix) bool { return p.Addr().IsLoopback() })
}

// url makes the address of something in a repository of this host.
func (e *endpoint) url(repository, kind, target string) *url.URL {
	u := *e.base
	u.Path += "/" + repository + "/" + kind + "/" + target
	if e.Mirror {
		u.RawQuery = url.Values{"ns": {e.namespace}}.Encode()
	}
	return &u
}

// down marks the host as one to ask after the others for a while.
func (e *endpoint) down() { e.downUntil.Store(time.Now().Add(penalty).UnixNano()) }

func (e *endpoint) up() {
	if e.downUntil.Load() != 0 {
		e.downUntil.Store(0)
	}
}

func (e *endpoint) isDown(now time.Time) bool { return e.downUntil.Load() > now.UnixNano() }

func (e *endpoint) setNoRanges() {
	e.noRangesUntil.Store(time.Now().Add(rangeMemory).UnixNano())
}

func (e *endpoint) noRanges(now time.Time) bool { return e.noRangesUntil.Load() > now.UnixNano() }

// errNotHTTP is an address of a redirect that is not for this client.
var errNotHTTP = errors.New("redirect to something that is not http")
