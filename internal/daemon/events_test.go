package daemon

import (
	"context"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/control"
)

func TestEventLog(t *testing.T) {
	s := &service{events: newEventLog()}
	if list, err := s.Events(t.Context(), 0, 0); len(list) != 0 || err != nil {
		t.Fatalf("%v, %v", list, err)
	}
	waited := make(chan []control.Event)
	go func() {
		list, _ := s.Events(t.Context(), 0, time.Minute)
		waited <- list
	}()
	s.events.add(control.Event{Kind: "verified"})
	if list := <-waited; len(list) != 1 || list[0].Number != 1 {
		t.Errorf("waited for: %+v", list)
	}
	for range 2 * maxEvents {
		s.events.add(control.Event{Kind: "poisoned"})
	}
	list, err := s.Events(t.Context(), 0, time.Minute)
	if err != nil || len(list) > maxEvents || len(list) < maxEvents/2 || list[len(list)-1].Number != 2*maxEvents+1 {
		t.Errorf("%d events, %v", len(list), err)
	}
	if list, _ := s.Events(t.Context(), 2*maxEvents-1, 0); len(list) != 2 || list[0].Number != 2*maxEvents {
		t.Errorf("the last two: %+v", list)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if list, err := s.Events(ctx, 1<<40, time.Minute); len(list) != 0 || err != nil {
		t.Errorf("given up: %v, %v", list, err)
	}
}
