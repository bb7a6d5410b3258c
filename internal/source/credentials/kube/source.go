package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/source/credentials"
)

const (
	// MaxNamespaces bounds the namespaces that are watched one by one.
	MaxNamespaces = 64
	// maxSecrets bounds the secrets that are kept.
	maxSecrets = 8192
)

// Options make a Source.
type Options struct {
	// Kubeconfig names the file; empty: the service account of this pod.
	Kubeconfig string
	// Namespaces are those whose secrets are read; none: all. At most MaxNamespaces.
	Namespaces []string
	// FirstWait is how long the first question waits for the list; 3 s by default.
	FirstWait time.Duration
	// WatchLife is how long one watch lasts; 5 minutes by default.
	WatchLife time.Duration
	// RetryInitial and RetryMax bound the pause after a failure; 1 s and 1 minute by
	// default.
	RetryInitial, RetryMax time.Duration
	// Logger gets a line when the API server fails, and when it is back; nil: none.
	Logger *zap.Logger
}

// Source is the pull secrets of a cluster. It is safe for concurrent use, and must be
// closed.
type Source struct {
	opts   Options
	cancel context.CancelFunc
	ctx    context.Context // ends with Close
	wg     sync.WaitGroup
	synced chan struct{} // closed when every namespace has been listed

	mu       sync.Mutex
	started  bool
	closed   bool
	unlisted int                            // namespaces
	rings    map[string]credentials.Keyring // by namespace/name
	merged   credentials.Keyring            // of rings; nil: to be made
	failures map[string]error               // by namespace, "" for all of them
}

var _ credentials.Source = (*Source)(nil)

// New makes a Source. Nothing is read or contacted before the first question. ctx
// only carries values.
func New(ctx context.Context, o Options) (*Source, error) {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.FirstWait, 3*time.Second)
	def(&o.WatchLife, 5*time.Minute)
	def(&o.RetryInitial, time.Second)
	def(&o.RetryMax, time.Minute)
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if len(o.Namespaces) > MaxNamespaces {
		return nil, fmt.Errorf("%d namespaces, at most %d are watched one by one", len(o.Namespaces), MaxNamespaces)
	}
	for _, n := range o.Namespaces {
		if n == "" || len(n) > 63 || strings.Trim(n, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return nil, fmt.Errorf("%q is not a namespace", n)
		}
	}
	o.Namespaces = slices.Compact(slices.Sorted(slices.Values(o.Namespaces)))
	if len(o.Namespaces) == 0 {
		o.Namespaces = []string{""}
	}
	s := &Source{
		opts: o, synced: make(chan struct{}), unlisted: len(o.Namespaces),
		rings: map[string]credentials.Keyring{}, failures: map[string]error{},
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return s, nil
}

// Close ends the watches, and waits for them.
func (s *Source) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	return nil
}

// Credentials implements [credentials.Source]. That the API server cannot be reached
// is no error: images that need no secret must not need it either.
func (s *Source) Credentials(ctx context.Context, host, repository string) ([]credentials.Credential, error) {
	s.start()
	timer := time.NewTimer(s.opts.FirstWait)
	defer timer.Stop()
	select {
	case <-s.synced:
	case <-timer.C:
	case <-s.ctx.Done():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.ring().Find(host, repository), nil
}

// Err tells why secrets are missing, or may be out of date; nil if they are not.
func (s *Source) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, n := range slices.Sorted(maps.Keys(s.failures)) {
		errs = append(errs, s.failures[n])
	}
	return errors.Join(errs...)
}

func (s *Source) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.closed {
		return
	}
	s.started = true
	for _, n := range s.opts.Namespaces {
		s.wg.Go(func() { s.follow(n) })
	}
}

func (s *Source) ring() credentials.Keyring {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.merged == nil {
		rings := make([]credentials.Keyring, 0, len(s.rings))
		for _, id := range slices.Sorted(maps.Keys(s.rings)) {
			rings = append(rings, s.rings[id])
		}
		s.merged = credentials.Merge(rings...)
	}
	return s.merged
}

// follow keeps the secrets of a namespace up to date until the source is closed.
func (s *Source) follow(namespace string) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval, pause.Multiplier = s.opts.RetryInitial, s.opts.RetryMax, 2
	first := true
	for s.ctx.Err() == nil {
		err := s.listAndWatch(namespace, func() {
			pause.Reset()
			if first {
				first = false
				s.listed()
			}
		})
		if s.ctx.Err() != nil {
			return
		}
		if errors.Is(err, errGone) {
			err = nil
		}
		s.note(namespace, err)
		t := time.NewTimer(pause.NextBackOff())
		select {
		case <-t.C:
		case <-s.ctx.Done():
			t.Stop()
		}
	}
}

// listed is called once for each namespace.
func (s *Source) listed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unlisted--; s.unlisted == 0 {
		close(s.synced)
	}
}

// note keeps how things stand, and logs it when that changes.
func (s *Source) note(namespace string, err error) {
	s.mu.Lock()
	before := s.failures[namespace]
	delete(s.failures, namespace)
	if err != nil {
		s.failures[namespace] = fmt.Errorf("pull secrets of %s: %w", nameOf(namespace), err)
	}
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.opts.Logger.Warn("reading pull secrets", zap.String("namespace", namespace), zap.Error(err))
	case err == nil && before != nil:
		s.opts.Logger.Info("pull secrets are up to date again", zap.String("namespace", namespace))
	}
}

func nameOf(namespace string) string {
	if namespace == "" {
		return "all namespaces"
	}
	return "namespace " + namespace
}

// listAndWatch returns when the list has to be made again.
func (s *Source) listAndWatch(namespace string, listed func()) error {
	account, err := load(s.opts.Kubeconfig)
	if err != nil {
		return err
	}
	a := &api{account: account, client: account.client()}
	defer a.close()
	rings := map[string]credentials.Keyring{}
	version, err := a.list(s.ctx, namespace, func(sec *secret) {
		if ring, ok := s.parse(sec); ok && len(rings) < maxSecrets {
			rings[sec.id()] = ring
		}
	})
	if err != nil {
		return err
	}
	s.replace(namespace, rings)
	listed()
	s.note(namespace, nil)
	for {
		began := time.Now()
		if version, err = a.watch(s.ctx, namespace, version, s.opts.WatchLife, s.change); err != nil {
			return err
		}
		if s.ctx.Err() != nil || time.Since(began) < s.opts.RetryInitial {
			return s.ctx.Err() // a server that ends watches at once is asked slowly
		}
	}
}

// parse reads one secret; what cannot be understood is somebody's mistake that must
// not be everybody's.
func (s *Source) parse(sec *secret) (credentials.Keyring, bool) {
	if sec.Type != secretType {
		return nil, false
	}
	ring, err := credentials.ParseKeyring(sec.Data[secretKey])
	if err != nil {
		s.opts.Logger.Debug("pull secret passed over", zap.String("secret", sec.id()), zap.Error(err))
	}
	return ring, err == nil
}

// replace puts a list in the place of what was known of a namespace.
func (s *Source) replace(namespace string, rings map[string]credentials.Keyring) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.rings, func(id string, _ credentials.Keyring) bool {
		return namespace == "" || strings.HasPrefix(id, namespace+"/")
	})
	for id, ring := range rings {
		if len(s.rings) < maxSecrets {
			s.rings[id] = ring
		}
	}
	s.merged = nil
}

// change takes over what a watch says.
func (s *Source) change(sec *secret, gone bool) {
	ring, ok := s.parse(sec)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.merged = nil
	delete(s.rings, sec.id())
	if !gone && ok && len(s.rings) < maxSecrets {
		s.rings[sec.id()] = ring
	}
}
