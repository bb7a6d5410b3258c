package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/profile"
	"github.com/nineply/nineply/internal/soci"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/layerindex"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
)

// Options make a [Catalog]. All fields but Logger are required.
type Options struct {
	Dir       string // holds the index files; created if need be
	Source    source.Repository
	Store     fetch.Store
	Records   Records
	Scheduler *fetch.Scheduler
	Prefetch  bool // fetch landmark ranges when an image is attached
	Fill      Fill
	Strict    bool // read each layer to its end before anything of it is used
	Trust     Trust
	Profiles  Profiles
	Platform  ocispec.Platform
	Logger    *zap.Logger
}

// Catalog knows images, chains and layers, and opens their trees.
type Catalog struct {
	dir      string
	source   source.Repository
	store    fetch.Store
	records  Records
	sched    *fetch.Scheduler
	prefetch bool
	strict   bool
	trust    Trust
	platform ocispec.Platform
	log      *zap.Logger

	profiles     Profiles
	recording    profile.Limits
	maxProfiles  int
	profileMu    sync.Mutex // held while a profile is changed
	profileStats profileCounters

	tocBytes, wholeBytes atomic.Int64
	times                readTimes
	building             chan struct{} // one token for each layer being indexed

	early earlyTOCs // its lock is a leaf
	fill  *filler

	ctx    context.Context // of background work
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	layers map[layerID]*Layer
	// givenUp are layers whose indexes led to wrong bytes, until their records are
	// removed or made anew. Nobody finds or installs them.
	givenUp map[layerID]bool
	trees   map[string]*treeState // by merged index name and claims
	opens   map[estargz.Digest]*call[*Layer]
	soci    map[digest.Digest]*soci.Index
	images  map[string]*call[*imageRecord]
	pulls   map[string]pull // by manifest digest
}

// New makes a catalog over what dir and the records hold from earlier runs.
func New(ctx context.Context, o Options) (*Catalog, error) {
	for _, sub := range []string{"layers", "merged", "fill"} {
		if err := prepareDir(filepath.Join(o.Dir, sub)); err != nil {
			return nil, fmt.Errorf("index directory: %w", err)
		}
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	c := &Catalog{
		dir: o.Dir, source: o.Source, store: o.Store, records: o.Records, sched: o.Scheduler,
		prefetch: o.Prefetch, strict: o.Strict, trust: o.Trust, platform: o.Platform, log: o.Logger,
		layers: map[layerID]*Layer{}, givenUp: map[layerID]bool{}, trees: map[string]*treeState{},
		opens: map[estargz.Digest]*call[*Layer]{}, images: map[string]*call[*imageRecord]{}, soci: map[digest.Digest]*soci.Index{},
	}
	c.profiles, c.maxProfiles = o.Profiles, maxProfiles
	c.pulls = map[string]pull{}
	c.building = make(chan struct{}, maxBuilding)
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.fill = newFiller(c, o.Fill)
	c.fill.start()
	return c, nil
}

// prepareDir makes a directory of index files, and removes what a process that
// died while writing left in it.
func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !layerindex.IsTemp(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Close stops background work and closes every index. Trees must not be used
// any more.
func (c *Catalog) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	var first error
	for _, t := range c.trees {
		if err := t.index.Close(); err != nil && first == nil {
			first = err
		}
	}
	for _, l := range c.layers {
		if err := l.close(); err != nil && first == nil {
			first = err
		}
	}
	clear(c.trees)
	clear(c.layers)
	return first
}

// goBackground runs fn until the catalog closes. It reports false when the
// catalog is closing already.
func (c *Catalog) goBackground(fn func(ctx context.Context)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		fn(c.ctx)
	}()
	return true
}

func (c *Catalog) layerPath(id layerID) string {
	return filepath.Join(c.dir, "layers", id.file()+".idx")
}

func (c *Catalog) mergedPath(name string) string {
	return filepath.Join(c.dir, "merged", name+".idx")
}

// call is one piece of work that several callers may wait for. It runs on the
// catalog's own context, so that a caller who gives up does not fail the rest.
type call[T any] struct {
	done chan struct{}
	val  T
	err  error
}

// share runs fn once for all concurrent callers with the same key.
func share[K comparable, T any](ctx context.Context, c *Catalog, calls map[K]*call[T], key K, fn func(ctx context.Context) (T, error)) (T, error) {
	c.mu.Lock()
	cl := calls[key]
	if cl == nil {
		cl = &call[T]{done: make(chan struct{})}
		calls[key] = cl
		c.mu.Unlock()
		started := c.goBackground(func(ctx context.Context) {
			cl.val, cl.err = fn(ctx)
			c.mu.Lock()
			delete(calls, key)
			c.mu.Unlock()
			close(cl.done)
		})
		if !started {
			c.mu.Lock()
			delete(calls, key)
			c.mu.Unlock()
			cl.err = fserr.New(fserr.Closed, "catalog", "", nil)
			close(cl.done)
		}
	} else {
		c.mu.Unlock()
	}
	select {
	case <-cl.done:
		return cl.val, cl.err
	case <-ctx.Done():
		var zero T
		return zero, fserr.New(fserr.KindOf(ctx.Err()), "catalog", "", ctx.Err())
	}
}

// LayerInfo describes an open layer to status reports.
type LayerInfo struct {
	Digest        string
	Lazy          bool
	Reason        string
	Format        string
	Origin        string // what the index was made from, if not from the blob alone
	Size, Fetched int64
	Files         int64
	Local, Chunks int
	Fill          FillInfo
}

// TreeInfo describes a tree being served.
type TreeInfo struct {
	Name   string
	Layers []string
	Files  int
	Users  int

	Account *Account
}

// Stats counts what the catalog itself fetched, bytes: tables of contents, and
// layers that were read whole.
func (c *Catalog) Stats() (toc, whole int64) { return c.tocBytes.Load(), c.wholeBytes.Load() }

// Layers lists the open layers by digest.
func (c *Catalog) Layers() []LayerInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	infos := make([]LayerInfo, 0, len(c.layers))
	for _, l := range c.layers {
		infos = append(infos, c.infoOf(l))
	}
	sort.Slice(infos, func(i, j int) bool { return infos[i].Digest < infos[j].Digest })
	return infos
}

// Trees lists the trees being served by name.
func (c *Catalog) Trees() []TreeInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	infos := make([]TreeInfo, 0, len(c.trees))
	for _, t := range c.trees {
		infos = append(infos, t.info())
	}
	sort.Slice(infos, func(i, j int) bool { return infos[i].Name < infos[j].Name })
	return infos
}
