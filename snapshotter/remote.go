package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
)

// prepareRemote makes target a committed remote snapshot. A reason other than
// reasonNone means that containerd has to unpack the layer itself.
func (s *Snapshotter) prepareRemote(ctx context.Context, key, parent, target string, labels map[string]string) (reason string, err error) {
	if isRebase(labels, target, parent) {
		// Handing it back is no way out: containerd would unpack the layer without
		// an overlay and lose its whiteouts.
		return "", fmt.Errorf("layer %s is prepared without its parent; the proxy plugin must not claim the capability rebase: %w", target, errdefs.ErrFailedPrecondition)
	}
	chain := chainKey(target)
	unlock, err := s.chains.lock(ctx, chain)
	if err != nil {
		return "", err
	}
	defer unlock()
	state, err := s.targetState(ctx, chain, key, parent, target)
	if err != nil {
		return "", err
	}
	if state != targetMissing {
		return s.answerKnown(ctx, state, parent, target, labels)
	}
	below, ok := remoteChain(parent)
	if parent != "" && !ok {
		s.logHandBack(target, ReasonLocalParent, nil)
		return ReasonLocalParent, nil
	}
	layer, err := parseLayer(labels, target, below)
	if err != nil {
		reason := ReasonBadLabels
		if errors.Is(err, errNoLabels) {
			reason = ReasonNoLabels
		}
		s.logHandBack(target, reason, err)
		return reason, nil
	}
	return s.addLayer(ctx, key, parent, layer, labels)
}

// targetState says whether a chain has a snapshot.
type targetState uint8

const (
	targetMissing targetState = iota
	targetThere
	targetElsewhere // there, on another parent
)

// targetState looks for a snapshot of the chain, and fails if the Prepare could
// not succeed anyway.
func (s *Snapshotter) targetState(ctx context.Context, chain, key, parent, target string) (state targetState, err error) {
	err = s.tx(ctx, false, func(ctx context.Context) error {
		_, info, _, err := storage.GetInfo(ctx, remoteName(chain))
		switch {
		case err == nil && info.Parent == parent && info.Labels[snapshots.LabelSnapshotRef] == target:
			state = targetThere
			return nil
		case err == nil:
			state = targetElsewhere
			return nil
		case !errdefs.IsNotFound(err):
			return err
		}
		if parent != "" {
			if _, _, _, err := storage.GetInfo(ctx, parent); err != nil {
				return fmt.Errorf("parent %q of snapshot %s: %w", parent, key, err)
			}
		}
		_, _, _, err = storage.GetInfo(ctx, key)
		if err == nil {
			return fmt.Errorf("snapshot %s: %w", key, errdefs.ErrAlreadyExists)
		}
		if !errdefs.IsNotFound(err) {
			return err
		}
		return nil
	})
	return state, err
}

// addLayer asks the Backend for the layer and commits its snapshot. The chain's
// lock is held.
func (s *Snapshotter) addLayer(ctx context.Context, key, parent string, layer Layer, labels map[string]string) (string, error) {
	if err := s.journal.putChain(layer); err != nil {
		return "", err
	}
	status, err := s.backend.AddLayer(ctx, layer)
	if fserr.Is(err, fserr.NotExist) && layer.Parent != "" && ctx.Err() == nil {
		// Perhaps it is the layers below that the Backend has no more.
		if err = s.addAgain(ctx, layer.Parent); err == nil {
			status, err = s.backend.AddLayer(ctx, layer)
		}
	}
	if err != nil {
		reason, err := s.judge(ctx, layer, err)
		s.undo(ctx, "adding a layer", layer.ChainID, s.retire)
		return reason, err
	}
	if err := s.commitRemote(ctx, key, parent, layer, status, labels); err != nil {
		s.undo(ctx, "adding a layer", layer.ChainID, s.retire)
		return "", err
	}
	s.counters.update(func(st *Stats) {
		st.Added++
		if status.Lazy {
			st.Lazy++
		}
	})
	s.log.Info("layer ready", zap.String("image", layer.Ref), zap.String("layer", layer.Digest),
		zap.String("chain", layer.ChainID), zap.Bool("lazy", status.Lazy), zap.String("reason", status.Reason))
	return reasonNone, nil
}

// judge decides between handing a layer back and failing.
func (s *Snapshotter) judge(ctx context.Context, layer Layer, err error) (string, error) {
	failure := backendError(ctx, "adding layer "+layer.Digest+" of "+layer.Ref, err)
	if ctx.Err() != nil {
		return "", failure
	}
	reason, source := reasonNone, false
	switch fserr.KindOf(err) {
	case fserr.Unsupported:
		reason = ReasonUnsupported
	case fserr.TooLarge:
		reason = ReasonTooLarge
	case fserr.NotExist:
		reason, source = ReasonNotFound, true
	case fserr.Unauthorized:
		reason, source = ReasonUnauthorized, true
	case fserr.Unavailable:
		reason, source = ReasonUnavailable, true
	}
	if reason == reasonNone || source && s.policy == Fail {
		return "", failure
	}
	s.logHandBack(layer.ChainID, reason, err)
	return reason, nil
}

// commitRemote creates and commits in one transaction, so that no active
// snapshot is ever seen.
func (s *Snapshotter) commitRemote(ctx context.Context, key, parent string, layer Layer, status LayerStatus, labels map[string]string) error {
	kept := maps.Clone(labels)
	kept[LabelRemote] = "remote snapshot"
	kept[LabelLazy] = "true"
	if !status.Lazy {
		// Labels travel in messages that take valid UTF-8 only.
		kept[LabelLazy] = fmt.Sprintf("false: %.256s", strings.ToValidUTF8(status.Reason, "?"))
	}
	usage := snapshots.Usage{Size: max(status.Size, 0), Inodes: max(status.Files, 0)}
	return s.tx(ctx, true, func(ctx context.Context) error {
		if _, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key, parent); err != nil {
			return fmt.Errorf("creating snapshot %s: %w", key, err)
		}
		_, err := storage.CommitActive(ctx, key, remoteName(layer.ChainID), usage, snapshots.WithLabels(kept))
		if err != nil {
			return fmt.Errorf("committing chain %s: %w", layer.ChainID, err)
		}
		return nil
	})
}

// retire takes a chain that has no snapshot, and so no users, back from the
// Backend. The chain's lock is held.
func (s *Snapshotter) retire(ctx context.Context, chain string) error {
	marked, err := s.journal.mountMarked(chain)
	if err != nil {
		return err
	}
	if marked {
		if err := s.unmount(ctx, chain); err != nil {
			return err
		}
	}
	if _, err := s.releaseMapped(ctx, chain, survey{}); err != nil {
		return err
	}
	if err := s.backend.RemoveChain(ctx, chain); err != nil {
		return backendError(ctx, "removing chain "+chain, err)
	}
	return s.journal.dropChain(chain)
}

// undo takes back what a failed operation did. The journal makes Cleanup try
// again what fails here, so the caller hears of the operation's own error only.
func (s *Snapshotter) undo(ctx context.Context, what string, chain string, fn func(context.Context, string) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := fn(ctx, chain); err != nil {
		s.log.Warn("undoing failed; the next cleanup tries again", zap.String("operation", what), zap.String("chain", chain), zap.Error(err))
	}
}

// mountChain has the Backend mount a chain. If the Backend lost it, its layers
// are added again from the journal first. The chain's lock is held.
func (s *Snapshotter) mountChain(ctx context.Context, chain string) (string, error) {
	if err := s.journal.markMount(chain); err != nil {
		return "", err
	}
	return s.mountWith(ctx, chain, s.backend.Mount)
}

func (s *Snapshotter) mountWith(ctx context.Context, chain string, mount func(context.Context, string) (string, error)) (string, error) {
	target, err := mount(ctx, chain)
	if fserr.Is(err, fserr.NotExist) && ctx.Err() == nil {
		if err = s.addAgain(ctx, chain); err == nil {
			target, err = mount(ctx, chain)
		}
	}
	if err != nil {
		return "", backendError(ctx, "mounting chain "+chain, err)
	}
	fi, err := os.Stat(target)
	if err != nil {
		return "", fmt.Errorf("chain %s is mounted at %q: %s: %w", chain, target, err.Error(), errdefs.ErrUnavailable)
	}
	if !filepath.IsAbs(target) || !fi.IsDir() {
		return "", fmt.Errorf("chain %s is mounted at %q, which is no directory: %w", chain, target, errdefs.ErrUnavailable)
	}
	return target, nil
}

// addAgain adds the layers of a chain, lowest first, as they were added when the
// image was pulled.
func (s *Snapshotter) addAgain(ctx context.Context, chain string) error {
	var chains []string
	err := s.tx(ctx, false, func(ctx context.Context) error {
		for name := remoteName(chain); name != ""; {
			_, info, _, err := storage.GetInfo(ctx, name)
			if err != nil {
				return err
			}
			c, _ := remoteChain(name)
			chains = append(chains, c)
			name = info.Parent
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.log.Warn("adding the layers of a chain again", zap.String("chain", chain), zap.Int("layers", len(chains)))
	for i := len(chains) - 1; i >= 0; i-- {
		layer, err := s.journal.layer(chains[i])
		if err != nil {
			return fserr.New(fserr.Unavailable, "adding again", chains[i], err)
		}
		if _, err := s.backend.AddLayer(ctx, layer); err != nil {
			return fmt.Errorf("adding layer %s again: %w", layer.Digest, err)
		}
	}
	return nil
}

// releaseIdle unmounts a chain if it has no user. The chain's lock is held.
func (s *Snapshotter) releaseIdle(ctx context.Context, chain string) error {
	sv, err := s.survey(ctx)
	if err != nil {
		return err
	}
	if _, err := s.releaseMapped(ctx, chain, sv); err != nil || sv.users[chain] > 0 {
		return err
	}
	return s.unmount(ctx, chain)
}

func (s *Snapshotter) unmount(ctx context.Context, chain string) error {
	if err := s.backend.Unmount(ctx, chain); err != nil {
		return backendError(ctx, "unmounting chain "+chain, err)
	}
	return s.journal.dropMount(chain)
}
