package registry

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/nineply/nineply/internal/source"
)

// leastProbe is the smallest blob that is asked for in two ranges.
const leastProbe = 64

// What is known of a host's answers to requests for several ranges.
const (
	multiUnknown = iota
	multiTaken
	multiRefused
)

// multi says what is known of the host.
func (e *endpoint) multi(now time.Time) int {
	switch until := e.multiUntil.Load(); {
	case until > now.UnixNano():
		return multiTaken
	case -until > now.UnixNano():
		return multiRefused
	}
	return multiUnknown
}

// setMulti remembers for a while whether the host takes such requests.
func (e *endpoint) setMulti(taken bool) {
	until := time.Now().Add(rangeMemory).UnixNano()
	if !taken {
		until = -until
	}
	e.multiUntil.Store(until)
}

// TakesRanges implements [source.MultiRanger].
func (b *blob) TakesRanges() bool {
	eps, err := b.endpoints()
	return err == nil && len(eps) > 0 && eps[0].multi(time.Now()) != multiRefused
}

// probe reads a small blob whole, in two ranges that touch. A host that does not know
// such requests answers with the whole of it, which is as good: so it costs nothing to
// learn about the host what would cost a large blob's first megabytes otherwise. It
// reports whether p was filled; whoever wants to know why not asks again as usual.
func (b *blob) probe(ctx context.Context, p []byte) bool {
	eps, err := b.endpoints()
	if err != nil || len(eps) == 0 || len(p) < leastProbe || int64(len(p)) != b.size {
		return false
	}
	e := task{endpoints: eps, rank: b.badness}.order()[0]
	if e.multi(time.Now()) != multiUnknown {
		return false
	}
	half := b.size / 2
	ranges := []source.Span{{Lo: 0, Hi: half}, {Lo: half, Hi: b.size}}
	resp, err := b.get(ctx, e, rangesHeader(ranges))
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }() // what counts was read by then
	var body io.Reader = resp.Body
	switch resp.StatusCode {
	case http.StatusPartialContent:
		parts := &parts{blob: b, host: e, body: resp.Body, ranges: ranges}
		if err := parts.begin(resp.Header.Get("Content-Type")); err != nil {
			e.setMulti(false) // it may have made one range of the two, which nobody here knows to read
			return false
		}
		body = parts
	case http.StatusOK, http.StatusRequestedRangeNotSatisfiable, http.StatusBadRequest:
		e.setMulti(false)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return false
	}
	if _, err := io.ReadFull(body, p); err != nil {
		return false
	}
	if resp.StatusCode == http.StatusPartialContent {
		e.setMulti(true)
	}
	return true
}
