package layerstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
)

// Daemon is what the store asks of the daemon. [control.Client] is one.
type Daemon interface {
	Describe(ctx context.Context, name string) (control.Image, error)
	AddLayer(ctx context.Context, l control.Layer) (control.LayerStatus, error)
	RemoveChain(ctx context.Context, chainID string) error
	Mount(ctx context.Context, m control.MountRequest) error
	Unmount(ctx context.Context, target string) error
	ReadBlob(ctx context.Context, r control.BlobRead) ([]byte, error)
}

// Options describe a store.
type Options struct {
	Daemon Daemon
	File   string // where the counts are kept
	Mounts string // directory of the layers' mount points
	// Grace is how long a layer that was looked for is kept if no client says that
	// it uses it; 10 min.
	Grace time.Duration
	// Patience is how long a lookup waits for a daemon that is away; 1 min.
	Patience time.Duration
	Logger   *zap.Logger // may be nil
}

const (
	maxRef       = 1024
	defaultGrace = 10 * time.Minute
	defaultWait  = time.Minute
	sweepEvery   = time.Minute
	describedFor = 10 * time.Second
	maxDescribed = 64
)

// errUnknown: there is no record of a layer.
var errUnknown = errors.New("not a known layer")

// Store knows which layers are used by whom.
type Store struct {
	o      Options
	log    *zap.Logger
	chains keyed

	mu        sync.Mutex
	records   map[key]*Record
	described map[string]described // by reference
}

// described is an image that was asked for a moment ago: a client looks for all of
// its layers, one after the other.
type described struct {
	image control.Image
	at    time.Time
}

// New makes a store that goes on where the file says that an earlier one stopped.
func New(o Options) (*Store, error) {
	if o.Grace <= 0 {
		o.Grace = defaultGrace
	}
	if o.Patience <= 0 {
		o.Patience = defaultWait
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if err := os.MkdirAll(filepath.Dir(o.File), 0o700); err != nil {
		return nil, fmt.Errorf("record of the layer store: %w", err)
	}
	records, err := loadTable(o.File)
	if err != nil {
		return nil, err
	}
	return &Store{o: o, log: o.Logger, records: records, described: make(map[string]described)}, nil
}

// List lists what the store knows, by reference and name.
func (s *Store) List() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Record, 0, len(s.records))
	for _, r := range sorted(s.records) {
		list = append(list, r.copy())
	}
	return list
}

func (r *Record) copy() Record {
	c := *r
	c.Uses = maps.Clone(r.Uses)
	return c
}

// Lookup finds the layer of an image by the digest of its blob or of its TOC, and
// makes it servable. fserr.NotExist if the image has none.
func (s *Store) Lookup(ctx context.Context, ref, name string) (Record, error) {
	if _, err := estargz.ParseDigest(name); err != nil || ref == "" || len(ref) > maxRef {
		return Record{}, fserr.Newf(fserr.NotExist, "look up", name, "no layer is called so")
	}
	if r, ok := s.touch(key{ref, name}); ok {
		return r, nil
	}
	im, err := s.describe(ctx, ref)
	if err != nil {
		return Record{}, err
	}
	for _, l := range im.Layers {
		if l.Digest != name && l.TOC != name {
			continue
		}
		r := &Record{Ref: ref, Name: name, Manifest: im.Manifest, Layer: l, Chain: chainOf(im.Manifest, l.Digest), Touched: time.Now()}
		return s.add(ctx, r)
	}
	return Record{}, fserr.Newf(fserr.NotExist, "look up", name, "%s has no such layer", ref)
}

// chainOf names the chain of one layer that the daemon is asked to keep. It has the
// image in it: two images may have one blob and say different things of it.
func chainOf(manifest, layer string) string {
	sum := sha256.Sum256([]byte("layerstore\x00" + manifest + "\x00" + layer))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// touch finds a record, and says that somebody is interested in it.
func (s *Store) touch(k key) (Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[k]
	if r == nil {
		return Record{}, false
	}
	r.Touched = time.Now()
	return r.copy(), true
}

// describe asks for the layers of an image, unless that was done a moment ago.
func (s *Store) describe(ctx context.Context, ref string) (control.Image, error) {
	s.mu.Lock()
	d, ok := s.described[ref]
	s.mu.Unlock()
	if ok && time.Since(d.at) < describedFor {
		return d.image, nil
	}
	err := s.ask(ctx, func() (err error) {
		d.image, err = s.o.Daemon.Describe(ctx, ref)
		return err
	})
	if err != nil {
		return control.Image{}, err
	}
	d.at = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.described) >= maxDescribed {
		clear(s.described)
	}
	s.described[ref] = d
	return d.image, nil
}

// add makes a layer servable and records it.
func (s *Store) add(ctx context.Context, r *Record) (Record, error) {
	defer s.chains.lock(r.Chain)()
	if err := s.addLayer(ctx, r); err != nil {
		return Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.records[r.key()]; old != nil {
		return old.copy(), nil // somebody else was faster
	}
	if len(s.records) >= maxRecords {
		return Record{}, fserr.Newf(fserr.TooLarge, "look up", r.Name, "%d layers are known", len(s.records))
	}
	s.records[r.key()] = r
	if err := saveTable(s.o.File, s.records); err != nil {
		delete(s.records, r.key())
		return Record{}, err
	}
	return r.copy(), nil
}

func (s *Store) addLayer(ctx context.Context, r *Record) error {
	return s.ask(ctx, func() error {
		st, err := s.o.Daemon.AddLayer(ctx, control.Layer{
			Ref: r.Ref, Digest: r.Layer.Digest, ManifestDigest: r.Manifest, ChainID: r.Chain, DiffID: r.Layer.DiffID,
		})
		if err == nil {
			s.log.Info("layer ready", zap.String("image", r.Ref), zap.String("layer", r.Layer.Digest), zap.Bool("lazy", st.Lazy), zap.String("reason", st.Reason))
		}
		return err
	})
}

// Use says that a client keeps the layer. It is on disk when Use returns.
func (s *Store) Use(ctx context.Context, ref, name string, uid uint32) error {
	for {
		if _, err := s.Lookup(ctx, ref, name); err != nil {
			return err
		}
		err := s.change(key{ref, name}, uid, 1)
		if !errors.Is(err, errUnknown) || ctx.Err() != nil {
			return err
		}
		// Its last user released it in between.
	}
}

// change counts, and takes it back if it cannot be recorded.
func (s *Store) change(k key, uid uint32, by int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[k]
	if r == nil {
		return fserr.New(fserr.NotExist, "count", k.name, errUnknown)
	}
	before := r.copy()
	r.count(uid, by)
	r.Touched = time.Now()
	if err := saveTable(s.o.File, s.records); err != nil {
		*r = before
		return err
	}
	return nil
}

// Release says that a client keeps the layer no longer. Nothing happens for one that
// never did. When nobody uses the layer, its mount goes; what cannot be done now,
// since the daemon is away or the mount busy, is done later.
func (s *Store) Release(ctx context.Context, ref, name string, uid uint32) error {
	if err := s.change(key{ref, name}, uid, -1); err != nil {
		return err
	}
	if err := s.drop(ctx, key{ref, name}); err != nil {
		s.log.Warn("a layer that was released stays a while", zap.String("image", ref), zap.String("layer", name), zap.Error(err))
	}
	return nil
}

// drop forgets a layer that nobody uses.
func (s *Store) drop(ctx context.Context, k key) error {
	s.mu.Lock()
	r, others := s.records[k], false
	if r == nil || r.Used() > 0 {
		s.mu.Unlock()
		return nil
	}
	chain := r.Chain
	s.mu.Unlock()
	defer s.chains.lock(chain)()
	s.mu.Lock()
	for _, o := range s.records {
		others = others || o != r && o.Chain == chain
	}
	used := s.records[k] != r || r.Used() > 0
	s.mu.Unlock()
	if used {
		return nil
	}
	if !others {
		if err := s.retire(ctx, chain); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records[k] != r || r.Used() > 0 { // somebody was faster; the mount is made again when it is looked at
		return nil
	}
	delete(s.records, k)
	return saveTable(s.o.File, s.records)
}

// retire takes a chain's mount away and has the daemon forget it. Its lock is held.
func (s *Store) retire(ctx context.Context, chain string) error {
	target := s.target(chain)
	if err := s.o.Daemon.Unmount(ctx, target); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fserr.New(fserr.Busy, "remove", target, err)
	}
	return s.o.Daemon.RemoveChain(ctx, chain)
}

// target is where a chain's layer is mounted: short, since the options of an overlay
// of many layers have to fit into one page.
func (s *Store) target(chain string) string {
	return filepath.Join(s.o.Mounts, chain[len("sha256:"):][:24])
}

// Target gives the directory where the layer's files are, and mounts them there if
// they are not. It needs no daemon for what is mounted.
func (s *Store) Target(ctx context.Context, ref, name string) (string, error) {
	r, err := s.Lookup(ctx, ref, name)
	if err != nil {
		return "", err
	}
	defer s.chains.lock(r.Chain)()
	target := s.target(r.Chain)
	if mounted(target) {
		return target, nil
	}
	if err := os.MkdirAll(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTCONN) {
		return "", fserr.New(fserr.Internal, "mount point", target, err)
	}
	mount := func() error {
		return s.o.Daemon.Mount(ctx, control.MountRequest{Aname: "top/" + r.Chain, Target: target})
	}
	err = s.ask(ctx, mount)
	if fserr.Is(err, fserr.NotExist) { // the daemon's records were removed
		if err = s.addLayer(ctx, &r); err == nil {
			err = s.ask(ctx, mount)
		}
	}
	if err != nil {
		return "", err
	}
	return target, nil
}

// mounted tells whether a layer is mounted on target and its keeper answers.
func mounted(target string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return false
	}
	return st.Type == unix.FUSE_SUPER_MAGIC || st.Type == unix.V9FS_MAGIC
}

// ReadBlob reads from the layer's blob.
func (s *Store) ReadBlob(ctx context.Context, r *Record, off int64, size int) (data []byte, err error) {
	err = s.ask(ctx, func() error {
		data, err = s.o.Daemon.ReadBlob(ctx, control.BlobRead{Manifest: r.Manifest, Layer: r.Layer.Digest, Offset: off, Size: size})
		return err
	})
	return data, err
}

// Sweep forgets the layers that nobody uses, and that nobody has looked for since
// the grace time began.
func (s *Store) Sweep(ctx context.Context) {
	s.mu.Lock()
	var old []key
	for k, r := range s.records {
		if r.Used() == 0 && time.Since(r.Touched) >= s.o.Grace {
			old = append(old, k)
		}
	}
	s.mu.Unlock()
	for _, k := range old {
		if err := s.drop(ctx, k); err != nil && ctx.Err() == nil {
			s.log.Info("an unused layer stays a while", zap.String("image", k.ref), zap.String("layer", k.name), zap.Error(err))
		}
	}
}

// Run sweeps again and again until ctx ends.
func (s *Store) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.Sweep(ctx)
		}
	}
}
