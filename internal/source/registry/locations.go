package registry

import (
	"net/url"
	"strconv"
	"sync"
	"time"
)

const (
	// maxLocations bounds the addresses that are kept.
	maxLocations = 4096
	// unknownLife is how long an address is used that does not say when it expires.
	// An address that was refused earlier is forgotten at once.
	unknownLife = 5 * time.Minute
	// maxLife is the longest that an address is used, whatever it says.
	maxLife = time.Hour
)

// place is a blob at a host. The repository belongs to it: who may read one may
// not read all of them.
type place struct {
	endpoint           *endpoint
	repository, digest string
}

// location is an address that a host gave for a blob.
type location struct {
	url   *url.URL
	until time.Time // when to ask again
}

// locations keeps where hosts sent us for the bytes of blobs. All users of a
// blob share them, so that a redirect is followed once and not by each.
type locations struct {
	mu    sync.Mutex
	known map[place]location
}

// get gives an address that is still good; nil if there is none.
func (l *locations) get(p place, now time.Time) *url.URL {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.known[p]
	if !ok {
		return nil
	}
	if !now.Before(at.until) {
		delete(l.known, p)
		return nil
	}
	return at.url
}

// put keeps an address that worked.
func (l *locations) put(p place, u *url.URL, now time.Time) {
	life := lifetime(u, now)
	if life <= 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil {
		l.known = map[place]location{}
	}
	if _, ok := l.known[p]; !ok && len(l.known) >= maxLocations {
		l.evict(now)
	}
	l.known[p] = location{url: u, until: now.Add(life)}
}

// drop forgets an address that was refused, if it is still the one that is known;
// with nil whatever is known.
func (l *locations) drop(p place, u *url.URL) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u == nil || l.known[p].url == u {
		delete(l.known, p)
	}
}

// forget drops what is known of a host that is not used any more.
func (l *locations) forget(e *endpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.known {
		if p.endpoint == e {
			delete(l.known, p)
		}
	}
}

// evict makes room: what has expired goes, or else what expires first.
func (l *locations) evict(now time.Time) {
	var first place
	var at time.Time
	for p, loc := range l.known {
		if !now.Before(loc.until) {
			delete(l.known, p)
		} else if at.IsZero() || loc.until.Before(at) {
			first, at = p, loc.until
		}
	}
	if len(l.known) >= maxLocations {
		delete(l.known, first)
	}
}

// lifetime is how long to use an address that was given out just now. Signed
// addresses say in their query how long they are valid, or until when; a tenth of
// that is left for the request to arrive in.
func lifetime(u *url.URL, now time.Time) time.Duration {
	q := u.Query()
	for _, key := range []string{"X-Amz-Expires", "X-Goog-Expires"} {
		if n, err := strconv.ParseInt(q.Get(key), 10, 32); err == nil {
			return limited(time.Duration(n) * time.Second)
		}
	}
	if n, err := strconv.ParseInt(q.Get("Expires"), 10, 64); err == nil { // seconds since 1970
		return limited(time.Unix(n, 0).Sub(now))
	}
	if at, err := time.Parse(time.RFC3339, q.Get("se")); err == nil {
		return limited(at.Sub(now))
	}
	return unknownLife
}

func limited(d time.Duration) time.Duration { return min(d-d/10, maxLife) }
