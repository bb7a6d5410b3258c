package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"go.uber.org/zap"
)

// Prepare creates a writable snapshot on parent. With the label
// containerd.io/snapshot.ref it first tries to make the target a remote
// snapshot; the error is AlreadyExists when it is one.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	labels, err := requested(key, opts)
	if err != nil {
		return nil, err
	}
	target := labels[snapshots.LabelSnapshotRef]
	if target == "" {
		return s.create(ctx, snapshots.KindActive, key, parent, labels)
	}
	reason, err := s.prepareRemote(ctx, key, parent, target, labels)
	if err != nil {
		s.counters.update(func(st *Stats) { st.Failed++ })
		return nil, err
	}
	if reason == reasonNone {
		return nil, fmt.Errorf("target snapshot %q: %w", target, errdefs.ErrAlreadyExists)
	}
	s.counters.update(func(st *Stats) { st.HandedBack[reason]++ })
	// Labels of an extraction come from the image; a mapping there is not a wish of
	// the one who runs it.
	own := maps.Clone(labels)
	delete(own, snapshots.LabelSnapshotUIDMapping)
	delete(own, snapshots.LabelSnapshotGIDMapping)
	return s.create(ctx, snapshots.KindActive, key, parent, own)
}

// View creates a read-only snapshot on parent.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	labels, err := requested(key, opts)
	if err != nil {
		return nil, err
	}
	return s.create(ctx, snapshots.KindView, key, parent, labels)
}

func requested(key string, opts []snapshots.Opt) (map[string]string, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return nil, err
		}
	}
	if err := checkLabels(info.Labels); err != nil {
		return nil, invalid("snapshot %s: %w", key, err)
	}
	return info.Labels, nil
}

// create makes an active or view snapshot and what it needs to be mounted.
// When it fails, nothing of that is left.
func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	sh, err := parseShifting(labels)
	if err != nil {
		return nil, err
	}
	below, unlock, err := s.lockBelow(ctx, func(ctx context.Context) (ancestry, error) {
		below, err := ancestors(ctx, parent)
		if err != nil {
			return ancestry{}, fmt.Errorf("parent %q of snapshot %s: %w", parent, key, err)
		}
		return below, nil
	})
	if err != nil {
		return nil, err
	}
	defer unlock()
	if below.chain == "" {
		return s.insert(ctx, kind, key, parent, labels, lower{ancestry: below, shifting: sh})
	}
	target, err := s.mountBelow(ctx, below, sh)
	if err == nil {
		var mounts []mount.Mount
		if mounts, err = s.insert(ctx, kind, key, parent, labels, lower{below, sh, target}); err == nil {
			return mounts, nil
		}
	}
	s.undo(ctx, "mounting", below.chain, s.releaseIdle)
	return nil, err
}

// insert adds the metadata and the directories, together or not at all.
func (s *Snapshotter) insert(ctx context.Context, kind snapshots.Kind, key, parent string, labels map[string]string, below lower) ([]mount.Mount, error) {
	root, err := s.rootAttrs(below)
	if err != nil {
		return nil, err
	}
	if root, err = mapRoot(root, below.shifting, below.ancestry); err != nil {
		return nil, err
	}
	var mounts []mount.Mount
	var made string
	err = s.tx(ctx, true, func(ctx context.Context) error {
		snap, err := storage.CreateSnapshot(ctx, kind, key, parent, snapshots.WithLabels(labels))
		if err != nil {
			return fmt.Errorf("creating snapshot %s: %w", key, err)
		}
		made = snap.ID
		if len(snap.ParentIDs) > 0 && snap.ParentIDs[0] != below.top() {
			return fmt.Errorf("parent %q of snapshot %s was replaced: %w", parent, key, errdefs.ErrAborted)
		}
		if err := s.makeDirs(snap.ID, kind, root); err != nil {
			return fmt.Errorf("directories of snapshot %s: %w", key, err)
		}
		mounts, err = s.mounts(kind, snap.ID, below)
		return err
	})
	if err == nil {
		return mounts, nil
	}
	if made != "" {
		// The number was not committed, so the next snapshot gets the same one.
		err = errors.Join(err, s.discard(ctx, made))
	}
	return nil, err
}

// rootAttrs finds the attributes a new root must have.
func (s *Snapshotter) rootAttrs(below lower) (attrs, error) {
	switch {
	case len(below.locals) > 0:
		return attrsOf(s.fs(below.locals[0]))
	case below.chain != "" && s.rawMounts != nil:
		return rawAttrs(below.shifting), nil
	case below.chain != "":
		return attrsOf(below.target)
	}
	return defaultAttrs(), nil
}

// makeDirs creates the directories of snapshot id inside the transaction that
// creates it. A directory of that number is a leftover: numbers of committed
// snapshots are never given again.
func (s *Snapshotter) makeDirs(id string, kind snapshots.Kind, root attrs) error {
	if err := os.RemoveAll(s.dir(id)); err != nil {
		return err
	}
	if err := os.Mkdir(s.dir(id), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(s.fs(id), 0o700); err != nil {
		return err
	}
	if err := os.Lchown(s.fs(id), root.uid, root.gid); err != nil {
		return err
	}
	if err := os.Chmod(s.fs(id), root.mode); err != nil {
		return err
	}
	if kind != snapshots.KindActive {
		return nil
	}
	return os.Mkdir(s.work(id), 0o711)
}

// discard removes the directory of a snapshot whose transaction failed, unless
// another one has been given the number since.
func (s *Snapshotter) discard(ctx context.Context, id string) error {
	ctx = context.WithoutCancel(ctx)
	return s.tx(ctx, true, func(ctx context.Context) error {
		ids, err := idMap(ctx)
		if err != nil {
			return err
		}
		if _, taken := ids[id]; taken {
			return nil
		}
		return os.RemoveAll(s.dir(id))
	})
}

// Mounts describes the file system of an active or view snapshot and makes sure
// that what it refers to is mounted.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	var snap storage.Snapshot
	var sh shifting
	below, unlock, err := s.lockBelow(ctx, func(ctx context.Context) (below ancestry, err error) {
		snap, below, sh, err = find(ctx, key)
		return below, err
	})
	if err != nil {
		return nil, err
	}
	defer unlock()
	target := ""
	if below.chain != "" {
		if target, err = s.mountBelow(ctx, below, sh); err != nil {
			return nil, err
		}
	}
	return s.mounts(snap.Kind, snap.ID, lower{below, sh, target})
}

// find reads an active or view snapshot. It needs a transaction in ctx.
func find(ctx context.Context, key string) (storage.Snapshot, ancestry, shifting, error) {
	snap, err := storage.GetSnapshot(ctx, key)
	if err != nil {
		return storage.Snapshot{}, ancestry{}, shifting{}, fmt.Errorf("mounts of snapshot %s: %w", key, err)
	}
	_, info, _, err := storage.GetInfo(ctx, key)
	if err != nil {
		return storage.Snapshot{}, ancestry{}, shifting{}, fmt.Errorf("mounts of snapshot %s: %w", key, err)
	}
	sh, err := parseShifting(info.Labels)
	if err != nil {
		return storage.Snapshot{}, ancestry{}, shifting{}, fmt.Errorf("mounts of snapshot %s: %w", key, err)
	}
	below, err := ancestors(ctx, info.Parent)
	return snap, below, sh, err
}

// lockBelow has look read, in a transaction, what is below a snapshot, and takes
// the lock of the chain there, if there is one. look is called again with the
// lock, under which Cleanup neither unmounts nor removes the chain.
func (s *Snapshotter) lockBelow(ctx context.Context, look func(context.Context) (ancestry, error)) (ancestry, func(), error) {
	read := func() (below ancestry, err error) {
		err = s.tx(ctx, false, func(ctx context.Context) error {
			below, err = look(ctx)
			return err
		})
		return below, err
	}
	below, err := read()
	if err != nil {
		return ancestry{}, nil, err
	}
	if below.chain == "" {
		return below, func() {}, nil
	}
	unlock, err := s.chains.lock(ctx, below.chain)
	if err != nil {
		return ancestry{}, nil, err
	}
	again, err := read()
	if err == nil && again.chain != below.chain {
		err = fmt.Errorf("the layers below were replaced: %w", errdefs.ErrAborted)
	}
	if err != nil {
		unlock()
		return ancestry{}, nil, err
	}
	return again, unlock, nil
}

func (s *Snapshotter) logHandBack(target, reason string, err error) {
	fields := []zap.Field{zap.String("target", target), zap.String("reason", reason), zap.Error(err)}
	switch {
	case reason == ReasonLocalParent:
		// The layer below was logged.
		s.log.Debug("a layer above an unpacked one is unpacked too", fields...)
		return
	case reason != ReasonNoLabels:
		s.log.Warn("containerd will download and unpack this layer and all above it", fields...)
		return
	}
	if s.warnedRef.CompareAndSwap(false, true) {
		s.log.Warn("layers are not lazy: the client sends no image labels; export enable_remote_snapshot_annotations=true and name the snapshotter in unpack_config, or set disable_snapshot_annotations=false", fields...)
	}
}
