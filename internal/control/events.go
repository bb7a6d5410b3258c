package control

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/nineply/nineply/internal/fserr"
)

// Event is something that happened and that an operator may want to know.
type Event struct {
	// Number counts the events since the daemon started, from 1 on.
	Number uint64    `json:"number"`
	Time   time.Time `json:"time"`
	Kind   string    `json:"kind"`            // verified, poisoned, unverified or refused
	Layer  string    `json:"layer,omitempty"` // digest of the blob
	Text   string    `json:"text"`
}

// MaxEventWait is how long [EventService.Events] waits at most.
const MaxEventWait = time.Minute

// EventService tells what happened.
type EventService interface {
	// Events gives the events behind number after, the oldest first, as far as they
	// are still known. If there are none, it waits up to that long for one.
	Events(ctx context.Context, after uint64, wait time.Duration) ([]Event, error)
}

func handleEvents(mux *http.ServeMux, s EventService) {
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		after, wait, err := eventQuery(r)
		if err != nil {
			reply(w, nil, err)
			return
		}
		out, err := s.Events(r.Context(), after, wait)
		reply(w, out, err)
	})
}

func eventQuery(r *http.Request) (after uint64, wait time.Duration, err error) {
	q := r.URL.Query()
	if text := q.Get("after"); text != "" {
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return 0, 0, fserr.Newf(fserr.Invalid, "request", "", "after: %.40q is no number", text)
		}
	}
	if text := q.Get("wait"); text != "" {
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 {
			return 0, 0, fserr.Newf(fserr.Invalid, "request", "", "wait: %.40q is no duration", text)
		}
	}
	return after, min(wait, MaxEventWait), nil
}

// Events calls [EventService.Events].
func (c *Client) Events(ctx context.Context, after uint64, wait time.Duration) ([]Event, error) {
	var out []Event
	err := c.call(ctx, http.MethodGet, fmt.Sprintf("/v1/events?after=%d&wait=%s", after, wait), nil, &out)
	return out, err
}
