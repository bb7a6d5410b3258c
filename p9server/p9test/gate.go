package p9test

import (
	"context"
	"sync"
)

// Gate holds callers of Wait until it is opened, and tells of their coming and
// going. Wait fits [Tree.Fetch] and [Exports.Wait].
type Gate struct {
	// Entered gets the name given to each Wait when it begins, Left the error
	// with which each ended. Both hold 1024 and must be emptied beyond that.
	Entered chan string
	Left    chan error

	once sync.Once
	open chan struct{}
}

// NewGate makes a closed gate.
func NewGate() *Gate {
	return &Gate{Entered: make(chan string, 1024), Left: make(chan error, 1024), open: make(chan struct{})}
}

// Open lets all go, now and later.
func (g *Gate) Open() { g.once.Do(func() { close(g.open) }) }

// Wait returns nil once the gate is open, or the cause of ctx's end.
func (g *Gate) Wait(ctx context.Context, name string) error {
	g.Entered <- name
	var err error
	select {
	case <-g.open:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	g.Left <- err
	return err
}
