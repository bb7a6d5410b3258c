package chunkstore

import (
	"sync"
	"sync/atomic"
)

// gate counts the operations under way and lets none in once shut. Unlike an
// RWMutex it may be entered again by who is inside.
type gate struct {
	state atomic.Int64 // count of those inside, plus gateShut
	once  sync.Once
	idle  chan struct{}
}

const gateShut = 1 << 62

func newGate() *gate { return &gate{idle: make(chan struct{})} }

func (g *gate) enter() bool {
	if g.state.Add(1) < gateShut {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.state.Add(-1) == gateShut {
		g.once.Do(func() { close(g.idle) })
	}
}

// shut waits for those inside. It is called once.
func (g *gate) shut() {
	if g.state.Add(gateShut) == gateShut {
		g.once.Do(func() { close(g.idle) })
	}
	<-g.idle
}
