package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"
)

// SourcePolicy says what happens to a layer whose source failed: it cannot be
// reached, refuses the credentials, or does not have the layer.
type SourcePolicy uint8

const (
	// HandBack lets containerd download and unpack the layer, which it can do with
	// credentials of its own. From that layer on, the image is not lazy.
	HandBack SourcePolicy = iota
	// Fail makes the pull fail.
	Fail
)

// Options configure a [Snapshotter].
type Options struct {
	// Root is the directory for metadata and upper directories. It must not contain
	// ":", "," or "\", which mean something in overlay options.
	Root string
	// Backend serves the layers.
	Backend Backend
	// OnSourceFailure is HandBack unless set.
	OnSourceFailure SourcePolicy
	// OverlayOptions are added to every overlay mount.
	OverlayOptions []string
	// Raw, if set, has others mount the chains.
	Raw *RawMounts
	// Logger may be nil.
	Logger *zap.Logger
}

// Snapshotter implements containerd's snapshots.Snapshotter and
// snapshots.Cleaner. All methods may be called concurrently.
type Snapshotter struct {
	backend   Backend
	policy    SourcePolicy
	log       *zap.Logger
	ms        *storage.MetaStore
	snapshots string
	overlay   []string
	rawMounts *RawMounts
	journal   journal

	chains    keyedLocks
	cleaning  chan struct{} // capacity 1: the cleanup gate
	counters  counters
	warnedRef atomic.Bool
	closed    atomic.Bool
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// openTimeout bounds the wait for a metadata file another process holds.
const openTimeout = 5 * time.Second

// undoTimeout bounds Backend calls that undo a failed operation.
const undoTimeout = 30 * time.Second

// New opens the snapshotter on opts.Root, creating it if needed. It makes no
// Backend call and leaves mounts alone. It fails when another process has the
// same root open.
func New(ctx context.Context, opts Options) (*Snapshotter, error) {
	if opts.Backend == nil || !filepath.IsAbs(opts.Root) || strings.ContainsAny(opts.Root, `:,\`) {
		return nil, invalid("snapshotter needs a backend and an absolute root without special characters, not %q", opts.Root)
	}
	if err := checkRaw(opts.Raw); err != nil {
		return nil, err
	}
	log := opts.Logger
	if log == nil {
		log = zap.NewNop()
	}
	s := &Snapshotter{
		backend:   opts.Backend,
		policy:    opts.OnSourceFailure,
		log:       log,
		snapshots: filepath.Join(opts.Root, "snapshots"),
		cleaning:  make(chan struct{}, 1),
		rawMounts: opts.Raw,
	}
	if err := s.openRoot(ctx, opts.Root); err != nil {
		return nil, fmt.Errorf("opening snapshotter in %s: %w", opts.Root, err)
	}
	s.overlay = overlayOptions(opts.Root, opts.OverlayOptions, log)
	return s, nil
}

func (s *Snapshotter) openRoot(ctx context.Context, root string) error {
	if err := os.MkdirAll(s.snapshots, 0o700); err != nil {
		return err
	}
	typed, err := fs.SupportsDType(root)
	if err != nil {
		return err
	}
	if !typed {
		return errors.New("the file system gives no types in directory entries (d_type), which overlay needs")
	}
	s.ms, err = storage.NewMetaStore(filepath.Join(root, "metadata.db"), func(o *bbolt.Options) error {
		o.Timeout = openTimeout
		return nil
	})
	if err != nil {
		return err
	}
	// The first transaction opens the file and thereby locks the root.
	err = s.tx(ctx, false, func(context.Context) error { return nil })
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("another process has it open: %w", errdefs.ErrUnavailable)
	}
	if err != nil {
		return err
	}
	if s.journal, err = openJournal(root); err != nil {
		return errors.Join(err, s.ms.Close())
	}
	return nil
}

// Close releases the metadata file. Snapshots, mounts and the Backend's
// references stay as they are. Calls after Close fail with Unavailable.
func (s *Snapshotter) Close() error {
	s.closed.Store(true)
	return s.ms.Close()
}

func (s *Snapshotter) tx(ctx context.Context, writable bool, fn storage.TransactionCallback) error {
	if s.closed.Load() {
		return fmt.Errorf("snapshotter is closed: %w", errdefs.ErrUnavailable)
	}
	err := s.ms.WithTransaction(ctx, writable, fn)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return fmt.Errorf("snapshotter is closed: %w", errdefs.ErrUnavailable)
	}
	return err
}

// Stat gives the metadata of one snapshot.
func (s *Snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = s.tx(ctx, false, func(ctx context.Context) error {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

// Update changes labels; other fields are InvalidArgument. A remote snapshot
// keeps the label of its target, by which containerd finds it.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (updated snapshots.Info, err error) {
	if err := checkLabels(info.Labels); err != nil {
		return snapshots.Info{}, invalid("snapshot %s: %w", info.Name, err)
	}
	err = s.tx(ctx, true, func(ctx context.Context) error {
		if _, remote := remoteChain(info.Name); remote {
			_, now, _, err := storage.GetInfo(ctx, info.Name)
			if err != nil {
				return err
			}
			info.Labels = maps.Clone(info.Labels)
			if info.Labels == nil {
				info.Labels = make(map[string]string, 1)
			}
			info.Labels[snapshots.LabelSnapshotRef] = now.Labels[snapshots.LabelSnapshotRef]
		}
		updated, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		return err
	})
	return updated, err
}

// Usage gives what a snapshot itself occupies: for a remote one the size and
// inodes of the whole layer, for an active one what is in its upper directory
// now.
func (s *Snapshotter) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	var id string
	var info snapshots.Info
	err = s.tx(ctx, false, func(ctx context.Context) error {
		id, info, usage, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil || info.Kind != snapshots.KindActive {
		return usage, err
	}
	if usage, err = diskUsage(ctx, s.fs(id)); err != nil {
		return snapshots.Usage{}, fmt.Errorf("usage of snapshot %s: %w", key, err)
	}
	return usage, nil
}

// Walk calls fn for the snapshots that match any of the filters, or for all
// without filters. fn runs outside of any transaction.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	var found []snapshots.Info
	err := s.tx(ctx, false, func(ctx context.Context) error {
		return walkInfo(ctx, func(info snapshots.Info) { found = append(found, info) }, filters...)
	})
	if err != nil {
		return err
	}
	for _, info := range found {
		if err := fn(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

// Commit makes an active snapshot a committed one.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	if err := checkKey(name); err != nil {
		return err
	}
	var id string
	err := s.tx(ctx, false, func(ctx context.Context) error {
		var info snapshots.Info
		var err error
		if id, info, _, err = storage.GetInfo(ctx, key); err != nil {
			return err
		}
		if info.Kind != snapshots.KindActive {
			return fmt.Errorf("snapshot %s is not active: %w", key, errdefs.ErrFailedPrecondition)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Counted before the write transaction, which others wait for.
	usage, err := diskUsage(ctx, s.fs(id))
	if err != nil {
		return fmt.Errorf("usage of snapshot %s: %w", key, err)
	}
	return s.tx(ctx, true, func(ctx context.Context) error {
		if _, err := storage.CommitActive(ctx, key, name, usage, opts...); err != nil {
			return fmt.Errorf("committing snapshot %s: %w", key, err)
		}
		return nil
	})
}

// Remove deletes a snapshot's metadata, at once and for ever. What it occupied
// is freed by the next Cleanup.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	return s.tx(ctx, true, func(ctx context.Context) error {
		if _, _, err := storage.Remove(ctx, key); err != nil {
			return fmt.Errorf("failed to remove snapshot %s: %w", key, err)
		}
		return nil
	})
}

// checkKey refuses names that could be taken for remote snapshots.
func checkKey(key string) error {
	if key == "" || strings.HasPrefix(key, remotePrefix) {
		return invalid("snapshot name %q", key)
	}
	return nil
}
