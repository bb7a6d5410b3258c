package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/nineply/nineply/internal/idmap"
)

// IDMapper is a [Backend] that can show the files of a chain with the owners that
// they have in a user namespace. With it, the proxy plugin may claim the
// capability remap-ids, and containers with a user namespace start without a copy
// of their image.
type IDMapper interface {
	// MountMapped is Mount, at a target of its own for each ids.
	MountMapped(ctx context.Context, chainID string, ids idmap.Maps) (target string, err error)
	// UnmountMapped is Unmount of what MountMapped mounted.
	UnmountMapped(ctx context.Context, chainID string, ids idmap.Maps) error
}

// mountBelow has the chain below a snapshot mounted as the snapshot needs it. The
// chain's lock is held.
func (s *Snapshotter) mountBelow(ctx context.Context, below ancestry, sh shifting) (string, error) {
	if s.rawMounts != nil {
		return "", nil // somebody else's part
	}
	if !sh.byBackend(below) {
		return s.mountChain(ctx, below.chain)
	}
	mapper, ok := s.backend.(IDMapper)
	if !ok {
		return "", fmt.Errorf("mapping the owners of chain %s; the proxy plugin must not claim the capability remap-ids: %w", below.chain, errdefs.ErrNotImplemented)
	}
	if err := s.journal.markMapped(below.chain, sh.ids); err != nil {
		return "", err
	}
	return s.mountWith(ctx, below.chain, func(ctx context.Context, chain string) (string, error) {
		return mapper.MountMapped(ctx, chain, sh.ids)
	})
}

// cleanMapped unmounts the mapped mounts nobody uses.
func (s *Snapshotter) cleanMapped(ctx context.Context) (n int, err error) {
	marked, err := s.journal.listMapped()
	if err != nil {
		return 0, err
	}
	sv, err := s.survey(ctx)
	if err != nil {
		return 0, err
	}
	var errs collect
	for _, chain := range marked {
		if ctx.Err() != nil {
			errs.add(ctx.Err())
			break
		}
		unlock, ok := s.chains.tryLock(chain)
		if !ok {
			continue
		}
		done, err := s.releaseMapped(ctx, chain, sv)
		unlock()
		errs.add(err)
		n += done
	}
	return n, errs.err()
}

// releaseMapped unmounts the mapped mounts of a chain that have no user. sv may be
// from before the chain's lock was taken, so it is read again if need be.
func (s *Snapshotter) releaseMapped(ctx context.Context, chain string, sv survey) (n int, err error) {
	all, err := s.journal.mappedOf(chain)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	var errs collect
	fresh := false
	for _, ids := range all {
		if sv.users[chain+ids.String()] > 0 {
			continue
		}
		if !fresh {
			if sv, err = s.survey(ctx); err != nil {
				return n, err
			}
			if fresh = true; sv.users[chain+ids.String()] > 0 {
				continue
			}
		}
		if mapper, ok := s.backend.(IDMapper); ok {
			if err := mapper.UnmountMapped(ctx, chain, ids); err != nil {
				errs.add(backendError(ctx, "unmounting chain "+chain, err))
				continue
			}
		}
		errs.add(s.journal.dropMapped(chain, ids))
		n++
	}
	return n, errs.err()
}

// userKey names the mount that an active or view snapshot uses of the chain that
// is its parent. Labels that make no sense are refused when a snapshot is made;
// they name the unmapped mount.
func userKey(info snapshots.Info, chain string) string {
	if sh, err := parseShifting(info.Labels); err == nil && !sh.ids.None() {
		return chain + sh.ids.String()
	}
	return chain
}

// mappedName is the journal's file of a mapped mount. It begins with the chain's
// own and is none for what reads those.
func mappedName(chain string, ids idmap.Maps) string {
	sum := strings.TrimPrefix(chainKey("mapped "+ids.String()), "sha256:")
	return fileName(chain) + "." + sum[:16]
}

// markMapped is markMount of a mapped mount. The file holds the maps.
func (j journal) markMapped(chain string, ids idmap.Maps) error {
	path := filepath.Join(j.mounts, mappedName(chain, ids))
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	if err := os.WriteFile(path+tornSuffix, []byte(ids.String()), 0o600); err != nil {
		return fmt.Errorf("recording the mount of chain %s: %w", chain, err)
	}
	if err := os.Rename(path+tornSuffix, path); err != nil {
		return fmt.Errorf("recording the mount of chain %s: %w", chain, err)
	}
	return nil
}

// tornSuffix ends the names of files that are being written.
const tornSuffix = ".new"

func (j journal) dropMapped(chain string, ids idmap.Maps) error {
	return removeEntry(j.mounts, chain+strings.TrimPrefix(mappedName(chain, ids), fileName(chain)))
}

// mappedOf lists the maps of a chain's mapped mounts.
func (j journal) mappedOf(chain string) ([]idmap.Maps, error) {
	paths, err := filepath.Glob(filepath.Join(j.mounts, fileName(chain)+".*"))
	if err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	var all []idmap.Maps
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading the journal: %w", err)
		}
		_, ids, err := idmap.Cut(string(text))
		if err != nil || filepath.Base(path) != mappedName(chain, ids) {
			// Torn by a power cut, or by a death before the mount was asked for.
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("dropping a torn record: %w", err)
			}
			continue
		}
		all = append(all, ids)
	}
	return all, nil
}

// listMapped lists the chains that have mapped mounts.
func (j journal) listMapped() ([]string, error) {
	entries, err := os.ReadDir(j.mounts)
	if err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	var chains []string
	for _, e := range entries {
		name, _, mapped := strings.Cut(e.Name(), ".")
		chain, ok := chainOf(name)
		if mapped && ok && (len(chains) == 0 || chains[len(chains)-1] != chain) {
			chains = append(chains, chain)
		}
	}
	return chains, nil
}
