package control_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
)

// eventQuery is what Events was asked.
type eventQuery struct {
	After uint64
	Wait  time.Duration
}

func happened() []control.Event {
	return []control.Event{{Number: 8, Time: time.Unix(1, 0).UTC(), Kind: "poisoned", Layer: "sha256:1", Text: "it is not what it claims"}}
}

func (r *recorder) Events(_ context.Context, after uint64, wait time.Duration) ([]control.Event, error) {
	r.calls = append(r.calls, eventQuery{after, wait})
	return happened(), r.err
}

func TestEvents(t *testing.T) {
	r := &recorder{}
	c := serve(t, r)
	got, err := c.Events(t.Context(), 7, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(happened(), got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]any{eventQuery{7, control.MaxEventWait}}, r.calls); diff != "" {
		t.Error(diff)
	}
	if _, err := c.Events(t.Context(), 0, -time.Second); !fserr.Is(err, fserr.Invalid) {
		t.Errorf("a wait below zero: %v", err)
	}
}
