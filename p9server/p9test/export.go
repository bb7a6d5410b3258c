package p9test

import (
	"context"
	"sync"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/p9server"
)

// Exports is a [p9server.Exporter] of trees by attach name. It counts what is
// attached and not released.
type Exports struct {
	// Wait, if set, is called by Attach first, and fails it with its error.
	Wait func(ctx context.Context, aname string) error

	trees map[string]p9server.Tree

	mu       sync.Mutex
	attached int
}

// Export makes an exporter of one tree under the empty name.
func Export(tree p9server.Tree) *Exports {
	return &Exports{trees: map[string]p9server.Tree{"": tree}}
}

// Add exports another tree. It must not be called once a server runs.
func (e *Exports) Add(aname string, tree p9server.Tree) { e.trees[aname] = tree }

// Attach implements [p9server.Exporter].
func (e *Exports) Attach(ctx context.Context, aname string) (p9server.Tree, func(), error) {
	if e.Wait != nil {
		if err := e.Wait(ctx, aname); err != nil {
			return nil, nil, err
		}
	}
	tree, ok := e.trees[aname]
	if !ok {
		return nil, nil, fserr.New(fserr.NotExist, "attach", aname, nil)
	}
	e.count(1)
	var once sync.Once
	return tree, func() { once.Do(func() { e.count(-1) }) }, nil
}

func (e *Exports) count(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.attached += n
}

// Attached tells how many attaches have not been released.
func (e *Exports) Attached() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.attached
}
