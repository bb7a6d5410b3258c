package registry

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/nineply/nineply/internal/source"
)

const (
	// maxLinks bounds the hosts that are learned about; the rest share one.
	maxLinks = 256
	// keptAnswers is how many of the last answers' times are looked at.
	keptAnswers = 64
	// enoughAnswers is from how many on they say something.
	enoughAnswers = 16
	// rttMemory is how long the shortest time to an answer stands for the round
	// trip, before a longer one takes its place.
	rttMemory = time.Minute
	// rateSample is the least that a rate is computed from.
	rateSample, rateSpan = 128 << 10, 5 * time.Millisecond
	// hedgeShare is how many second requests there may be for each answer.
	hedgeShare = 0.05
	// maxHedges is how many of them may be saved up.
	maxHedges = 4
	// leastPatience is the shortest time after which a second request is made.
	leastPatience = 10 * time.Millisecond
	// lagPiece is the part of a body, bytes, that is looked at to tell whether the body
	// has fallen behind; lagTimes how many times as long as usual it may take, lagAnswers
	// how many late answers more.
	lagPiece, lagTimes, lagAnswers = 1 << 20, 8, 4
	// openRequests and maxOpen are how many requests a host may have to answer at a
	// time: to begin with, and after it took all of them well. Bodies do not count:
	// who reads one may need another to go on.
	openRequests, maxOpen = 32, 64
	// calm is how long after a refusal another one does not count.
	calm = time.Second
)

// links holds what was learned about hosts, by name with port.
type links struct {
	mu    sync.Mutex
	hosts map[string]*link
}

func (l *links) of(host string) *link {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.hosts[host]
	if k != nil {
		return k
	}
	if l.hosts == nil {
		l.hosts = map[string]*link{}
	}
	if len(l.hosts) >= maxLinks-1 {
		host = source.OtherHosts
		if k := l.hosts[host]; k != nil {
			return k
		}
	}
	k = &link{limit: openRequests, hedges: 1}
	l.hosts[host] = k
	return k
}

// costs gives what requests to hosts cost, as far as it is known.
func (l *links) costs() map[string]source.Cost {
	l.mu.Lock()
	hosts := maps.Clone(l.hosts)
	l.mu.Unlock()
	costs := map[string]source.Cost{}
	for name, k := range hosts {
		if c, ok := k.cost(); ok {
			costs[name] = c
		}
	}
	return costs
}

// link is what was learned about one host: how long an answer takes, how fast
// bytes come, and how many requests it takes at a time. Its lock is a leaf.
type link struct {
	mu sync.Mutex

	answers [keptAnswers]time.Duration
	n       int           // answers so far
	usual   time.Duration // late, as it was some answers ago
	rtt     time.Duration
	rttAt   time.Time
	hedges  float64 // second requests that may be made

	rate    float64 // bytes per second; 0: not known
	bodies  int     // being read
	since   time.Time
	sampled int64 // bytes since then

	limit   float64
	open    int
	waiting []chan struct{} // closed when it is their turn
	refused time.Time
}

// answered notes how long it took from a request, on a connection that was there,
// to the header of its answer.
func (l *link) answered(now time.Time, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers[l.n%keptAnswers] = d
	l.n++
	if l.n == enoughAnswers || l.n%enoughAnswers == 0 {
		l.usual = l.late()
	}
	l.hedges = min(l.hedges+hedgeShare, maxHedges)
	if l.rtt == 0 || d < l.rtt || now.Sub(l.rttAt) > rttMemory {
		l.rtt, l.rttAt = d, now
	}
}

// patience is how long to wait for an answer before asking a second time: longer
// than nineteen of twenty took. It is not known before some answers have come.
func (l *link) patience() (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n < enoughAnswers {
		return 0, false
	}
	return l.late(), true
}

// late is how long an answer takes that is late; the caller holds mu.
func (l *link) late() time.Duration {
	last := slices.Clone(l.answers[:min(l.n, keptAnswers)])
	slices.Sort(last)
	return max(last[len(last)*19/20], 2*last[len(last)/2], leastPatience)
}

// lag is for how long a piece of a body may be waited for before the body counts as
// fallen behind: several times as long as it takes at the rate of the host, shared by
// the bodies that are read, and a late answer besides. It is not known before both are.
func (l *link) lag() (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n < enoughAnswers || l.rate <= 0 {
		return 0, false
	}
	piece := lagPiece * float64(max(1, l.bodies)) / l.rate
	return lagAnswers*l.usual + time.Duration(lagTimes*piece*float64(time.Second)), true
}

// hedge takes one of the second requests that may be made.
func (l *link) hedge() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hedges < 1 {
		return false
	}
	l.hedges--
	return true
}

// began notes that a body is being read.
func (l *link) began(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bodies++; l.bodies == 1 {
		l.since, l.sampled = now, 0
	}
}

// came notes bytes of a body.
func (l *link) came(now time.Time, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sampled += int64(n)
	if span := now.Sub(l.since); l.sampled >= rateSample && span >= rateSpan {
		l.sample(float64(l.sampled) / span.Seconds())
		l.since, l.sampled = now, 0
	}
}

// sample learns a rate: a higher one at once, a lower one slowly, since the reader
// and not the host may have been slow.
func (l *link) sample(rate float64) {
	if rate > l.rate {
		l.rate = rate
	} else {
		l.rate += (rate - l.rate) / 16
	}
}

// ended notes that a body is read no more.
func (l *link) ended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bodies--
}

// cost is what a request to the host costs, as far as is known.
func (l *link) cost() (source.Cost, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return source.Cost{RoundTrip: l.rtt, BytesPerSecond: l.rate}, l.rtt > 0 && l.rate > 0
}

// enter waits until the host may be asked, in the order of arrival. leave is to be
// called once when that is over.
func (l *link) enter(ctx context.Context) error {
	l.mu.Lock()
	if len(l.waiting) == 0 && float64(l.open) < l.limit {
		l.open++
		l.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	l.waiting = append(l.waiting, turn)
	l.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, turn); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	} else { // its turn came in this moment
		l.open--
		l.admit()
	}
	return context.Cause(ctx)
}

func (l *link) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	l.admit()
}

// admit lets in who waits, while there is room; the caller holds mu.
func (l *link) admit() {
	for len(l.waiting) > 0 && float64(l.open) < l.limit {
		close(l.waiting[0])
		l.waiting = slices.Delete(l.waiting, 0, 1)
		l.open++
	}
}

// judged learns from a status how many requests the host takes: half as many when
// it refuses one for being too many, and one more for each round of them that it
// served.
func (l *link) judged(now time.Time, status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		if now.Sub(l.refused) >= calm {
			l.limit = max(1, min(l.limit, float64(l.open))/2)
			l.refused = now
		}
	case status < http.StatusBadRequest:
		l.limit = min(l.limit+1/l.limit, maxOpen)
		l.admit()
	}
}
