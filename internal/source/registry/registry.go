package registry

import (
	"context"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/credentials"
	"github.com/nineply/nineply/internal/source/hosts"
)

// Options configures a Registry. The zero value works: anonymous access, no
// mirrors.
type Options struct {
	// Hosts says where mirrors and certificates are configured.
	Hosts hosts.Config
	// Credentials is asked when a host demands authentication; nil means
	// anonymous.
	Credentials credentials.Source
	// UserAgent is sent with each request; "nineply" by default.
	UserAgent string
	// StallTimeout is how long a host may send nothing, or take to answer,
	// before it counts as broken; 30 s by default.
	StallTimeout time.Duration
	// DialTimeout bounds making a connection where the host configuration does
	// not; 10 s by default.
	DialTimeout time.Duration
	// Attempts is how many rounds of all hosts are made; 5 by default.
	Attempts int
	// BackoffInitial and BackoffMax bound the pause between rounds; 100 ms and
	// 5 s by default.
	BackoffInitial, BackoffMax time.Duration
	// MaxRetryAfter is the longest pause that a host may ask for; 1 minute by
	// default. A longer one fails the read at once.
	MaxRetryAfter time.Duration
	// ReadThrough is how many bytes are read from the beginning of a blob to
	// get at a range, on a host that ignores Range; 16 MiB by default.
	ReadThrough int64
	// ChunkSize splits uploads into requests of so many bytes; 0 sends each
	// blob in one.
	ChunkSize int64
	// MountFrom are references whose repositories may hold blobs about to be
	// pushed, so that the registry can link them instead of taking them again.
	MountFrom []string
	// Sleep waits between rounds; a timer by default. It returns the context's
	// error when that ends first.
	Sleep func(ctx context.Context, d time.Duration) error
	// Logger gets one line when a host is passed over; nil means none.
	Logger *zap.Logger
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.StallTimeout, 30*time.Second)
	def(&o.DialTimeout, 10*time.Second)
	def(&o.BackoffInitial, 100*time.Millisecond)
	def(&o.BackoffMax, 5*time.Second)
	def(&o.MaxRetryAfter, time.Minute)
	if o.Attempts <= 0 {
		o.Attempts = 5
	}
	if o.ReadThrough <= 0 {
		o.ReadThrough = 16 << 20
	}
	if o.UserAgent == "" {
		o.UserAgent = "nineply"
	}
	if o.Credentials == nil {
		o.Credentials = credentials.Chain(nil)
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const (
	// maxOrigins bounds the registries whose hosts are kept.
	maxOrigins = 256
	// recheck is how often the files of the host configuration are looked at.
	recheck = 5 * time.Second
)

// Registry is a source of images. It is safe for concurrent use.
type Registry struct {
	opts   Options
	shared *http.Transport // for hosts without TLS settings of their own
	dialer *spareDialer    // of shared
	stats  source.Counter
	now    func() time.Time

	locations locations
	links     links

	closing chan struct{} // ends what runs in the background
	wg      sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	origins map[string]*origin
}

// origin is a registry as references name it, with the hosts to ask for it.
type origin struct {
	stamp     string
	checked   time.Time
	endpoints []*endpoint
}

var _ source.Backend = (*Registry)(nil)

// New makes a Registry. Nothing is read or contacted before the first use.
func New(opts Options) *Registry {
	opts = opts.withDefaults()
	dialer := newDialer(opts.DialTimeout)
	return &Registry{
		opts:    opts,
		now:     time.Now,
		closing: make(chan struct{}),
		shared:  newTransport(nil, dialer),
		dialer:  dialer,
		origins: map[string]*origin{},
	}
}

// goBackground runs fn beside a request, for whatever comes after it. Close ends
// its context and waits. It reports false when the registry is closed.
func (r *Registry) goBackground(ctx context.Context, fn func(ctx context.Context)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.wg.Go(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		done := make(chan struct{})
		r.wg.Go(func() {
			select {
			case <-r.closing:
				cancel()
			case <-done:
			}
		})
		defer close(done)
		fn(ctx)
	})
	return true
}

// Close ends idle connections. Reads under way go on; later ones fail with
// kind Closed.
func (r *Registry) Close() error {
	r.mu.Lock()
	if !r.closed {
		close(r.closing)
	}
	r.closed = true
	origins := r.origins
	r.origins = map[string]*origin{}
	r.mu.Unlock()
	r.wg.Wait()
	for _, o := range origins {
		o.release()
	}
	r.shared.CloseIdleConnections()
	return nil
}

// Stats gives the traffic since the start, and what was learned, by host.
func (r *Registry) Stats() map[string]source.HostStats {
	stats := r.stats.Snapshot()
	for host, cost := range r.links.costs() {
		if st, ok := stats[host]; ok {
			st.Cost = cost
			stats[host] = st
		}
	}
	return stats
}

func (o *origin) release() {
	for _, e := range o.endpoints {
		e.closeIdle()
	}
}

// endpoints gives the hosts to ask for a registry, in order, as the files say
// now.
func (r *Registry) endpoints(registry string) ([]*endpoint, error) {
	now := time.Now()
	r.mu.Lock()
	o, closed := r.origins[registry], r.closed
	fresh := o != nil && now.Sub(o.checked) < recheck
	r.mu.Unlock()
	switch {
	case closed:
		return nil, fserr.New(fserr.Closed, "read from", registry, nil)
	case fresh:
		return o.endpoints, nil
	}
	stamp := r.opts.Hosts.Stamp(registry)
	if o != nil && o.stamp == stamp {
		r.mu.Lock()
		o.checked = now
		r.mu.Unlock()
		return o.endpoints, nil
	}
	made, err := r.newOrigin(registry, stamp, now)
	if err != nil {
		return nil, err
	}
	return r.install(registry, made).endpoints, nil
}

func (r *Registry) newOrigin(registry, stamp string, now time.Time) (*origin, error) {
	list, err := r.opts.Hosts.Lookup(registry)
	if err != nil {
		return nil, err
	}
	o := &origin{stamp: stamp, checked: now}
	for _, h := range list {
		e, err := r.newEndpoint(registry, h)
		if err != nil {
			return nil, err
		}
		o.endpoints = append(o.endpoints, e)
	}
	return o, nil
}

// install publishes what newOrigin made, unless another caller was faster.
func (r *Registry) install(registry string, made *origin) *origin {
	r.mu.Lock()
	old := r.origins[registry]
	if old != nil && old.stamp == made.stamp {
		old.checked = made.checked
		r.mu.Unlock()
		made.release()
		return old
	}
	var retired []*origin
	if old != nil {
		retired = append(retired, old)
	}
	if len(r.origins) >= maxOrigins && old == nil {
		name := oldest(r.origins)
		retired = append(retired, r.origins[name])
		delete(r.origins, name)
	}
	r.origins[registry] = made
	r.mu.Unlock()
	for _, o := range retired {
		o.release()
		for _, e := range o.endpoints {
			r.locations.forget(e)
		}
	}
	return made
}

func oldest(origins map[string]*origin) string {
	var name string
	var at time.Time
	for n, o := range origins {
		if name == "" || o.checked.Before(at) {
			name, at = n, o.checked
		}
	}
	return name
}

// capable keeps the endpoints that may be asked for something.
func capable(all []*endpoint, c hosts.Capability) []*endpoint {
	out := make([]*endpoint, 0, len(all))
	for _, e := range all {
		if e.Capabilities.Has(c) {
			out = append(out, e)
		}
	}
	return out
}
