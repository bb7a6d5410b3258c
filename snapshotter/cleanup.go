package snapshotter

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Cleanup frees what no snapshot needs any more: mounts of chains without users,
// the Backend's references of chains without a snapshot, and directories. It
// goes on after a failure and gives all errors; what failed is tried again by the
// next call. containerd calls it after each garbage collection; calling it after
// a start settles what a crash left.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	select {
	case s.cleaning <- struct{}{}:
		defer func() { <-s.cleaning }()
	case <-ctx.Done():
		return ctx.Err()
	}
	start := time.Now()
	var errs collect
	unmounted, err := s.cleanMounts(ctx)
	errs.add(err)
	mapped, err := s.cleanMapped(ctx)
	errs.add(err)
	unmounted += mapped
	forgotten, err := s.cleanChains(ctx)
	errs.add(err)
	removed, err := s.cleanDirs(ctx)
	errs.add(err)
	if unmounted+forgotten+removed > 0 {
		s.log.Info("cleaned up", zap.Int("unmounted", unmounted), zap.Int("chains", forgotten),
			zap.Int("directories", removed), zap.Duration("took", time.Since(start)))
	}
	return errs.err()
}

func (s *Snapshotter) survey(ctx context.Context) (sv survey, err error) {
	err = s.tx(ctx, false, func(ctx context.Context) error {
		sv, err = takeSurvey(ctx)
		return err
	})
	return sv, err
}

// cleanMounts unmounts the chains nobody uses.
func (s *Snapshotter) cleanMounts(ctx context.Context) (n int, err error) {
	mounted, err := s.journal.listMounts()
	if err != nil {
		return 0, err
	}
	sv, err := s.survey(ctx)
	if err != nil {
		return 0, err
	}
	var errs collect
	for _, chain := range mounted {
		if sv.users[chain] > 0 {
			continue
		}
		if ctx.Err() != nil {
			errs.add(ctx.Err())
			break
		}
		done, err := s.unmountIdle(ctx, chain)
		errs.add(err)
		if done {
			n++
		}
	}
	return n, errs.err()
}

// unmountIdle looks again with the chain's lock, under which users come. Whoever
// holds that lock is adding or mounting the chain right now, which can take long,
// and the journal keeps the entry for the next Cleanup.
func (s *Snapshotter) unmountIdle(ctx context.Context, chain string) (done bool, err error) {
	unlock, ok := s.chains.tryLock(chain)
	if !ok {
		return false, nil
	}
	defer unlock()
	if err := s.releaseIdle(ctx, chain); err != nil {
		return false, err
	}
	marked, err := s.journal.mountMarked(chain)
	return !marked, err
}

// cleanChains takes chains without a snapshot back from the Backend, children
// before their parents.
func (s *Snapshotter) cleanChains(ctx context.Context) (n int, err error) {
	recorded, err := s.journal.listChains()
	if err != nil {
		return 0, err
	}
	sv, err := s.survey(ctx)
	if err != nil {
		return 0, err
	}
	dead := slices.DeleteFunc(recorded, func(chain string) bool {
		_, live := sv.live[chain]
		return live
	})
	var errs collect
	for _, chain := range s.topFirst(dead) {
		if ctx.Err() != nil {
			errs.add(ctx.Err())
			break
		}
		done, err := s.removeDead(ctx, chain)
		errs.add(err)
		if done {
			n++
		}
	}
	return n, errs.err()
}

// topFirst orders chains by the number of their ancestors in the list.
func (s *Snapshotter) topFirst(chains []string) []string {
	parent := make(map[string]string, len(chains))
	for _, chain := range chains {
		// A record that cannot be read has no known parent; order is a courtesy.
		if l, err := s.journal.layer(chain); err == nil {
			parent[chain] = l.Parent
		}
	}
	depth := make(map[string]int, len(chains))
	for _, chain := range chains {
		for c := parent[chain]; c != "" && depth[chain] <= len(chains); c = parent[c] {
			depth[chain]++
		}
	}
	slices.SortStableFunc(chains, func(a, b string) int { return cmp.Compare(depth[b], depth[a]) })
	return chains
}

// removeDead removes one chain, unless somebody is adding it again right now.
func (s *Snapshotter) removeDead(ctx context.Context, chain string) (done bool, err error) {
	unlock, ok := s.chains.tryLock(chain)
	if !ok {
		return false, nil
	}
	defer unlock()
	sv, err := s.survey(ctx)
	if err != nil {
		return false, err
	}
	if _, live := sv.live[chain]; live {
		return false, nil
	}
	if err := s.retire(ctx, chain); err != nil {
		return false, err
	}
	return true, nil
}

// cleanDirs removes directories that belong to no snapshot.
func (s *Snapshotter) cleanDirs(ctx context.Context) (n int, err error) {
	trash, err := s.discardOrphans(ctx)
	var errs collect
	errs.add(err)
	for _, name := range trash {
		if ctx.Err() != nil {
			errs.add(ctx.Err())
			break
		}
		if err := os.RemoveAll(s.dir(name)); err != nil {
			errs.add(fmt.Errorf("removing a snapshot's directory: %w", err))
			continue
		}
		n++
	}
	return n, errs.err()
}

// trashPrefix begins the names of directories that are being removed.
const trashPrefix = "rm-"

// discardOrphans renames them inside a write transaction. Directories are made
// in such transactions, so none is touched that is about to be committed, and the
// number of a transaction that failed, which is given again, is free.
func (s *Snapshotter) discardOrphans(ctx context.Context) (trash []string, err error) {
	var errs collect
	err = s.tx(ctx, true, func(ctx context.Context) error {
		ids, err := idMap(ctx)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(s.snapshots)
		if err != nil {
			return fmt.Errorf("reading snapshot directories: %w", err)
		}
		for _, e := range entries {
			if _, ok := ids[e.Name()]; ok {
				continue
			}
			name := e.Name()
			if !strings.HasPrefix(name, trashPrefix) {
				name = fmt.Sprintf("%s%s-%d", trashPrefix, name, time.Now().UnixNano())
				if err := os.Rename(s.dir(e.Name()), s.dir(name)); err != nil {
					errs.add(fmt.Errorf("discarding a snapshot's directory: %w", err))
					continue
				}
			}
			trash = append(trash, name)
		}
		return nil
	})
	errs.add(err)
	return trash, errs.err()
}
