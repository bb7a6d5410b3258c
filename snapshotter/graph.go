package snapshotter

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// remotePrefix begins the names of remote snapshots. Names that come from
// containerd begin with a namespace, in which "@" is not allowed, so the two
// never meet, and one remote snapshot serves all namespaces.
const remotePrefix = "@remote/"

func remoteName(chain string) string { return remotePrefix + chain }

// remoteChain gives the chain of a remote snapshot's name.
func remoteChain(name string) (chain string, ok bool) {
	return strings.CutPrefix(name, remotePrefix)
}

// ancestry is what lies below a snapshot.
type ancestry struct {
	locals   []string // IDs of layers unpacked on this host, highest first
	chain    string   // the chain below them; empty if there is none
	remoteID string   // ID of the snapshot the chain ends in
}

func (a ancestry) empty() bool { return len(a.locals) == 0 && a.chain == "" }

// top is the ID of the direct parent.
func (a ancestry) top() string {
	if len(a.locals) > 0 {
		return a.locals[0]
	}
	return a.remoteID
}

// ancestors reads what name and its parents are made of. name may be empty.
// It needs a transaction in ctx.
func ancestors(ctx context.Context, name string) (ancestry, error) {
	var a ancestry
	for name != "" {
		id, info, _, err := storage.GetInfo(ctx, name)
		if err != nil {
			return ancestry{}, err
		}
		if chain, ok := remoteChain(name); ok {
			// Everything below a remote snapshot is part of its chain.
			a.chain, a.remoteID = chain, id
			return a, nil
		}
		a.locals = append(a.locals, id)
		name = info.Parent
	}
	return a, nil
}

// survey is the state of all snapshots at one moment.
type survey struct {
	live  map[string]struct{} // chains that have a remote snapshot
	users map[string]int      // active and view snapshots whose lower is the chain, or the chain with maps
}

// takeSurvey reads all metadata. It needs a transaction in ctx.
func takeSurvey(ctx context.Context) (survey, error) {
	sv := survey{live: map[string]struct{}{}, users: map[string]int{}}
	parents := map[string]string{}
	var users []snapshots.Info
	err := walkInfo(ctx, func(info snapshots.Info) {
		parents[info.Name] = info.Parent
		if chain, ok := remoteChain(info.Name); ok {
			sv.live[chain] = struct{}{}
		}
		if info.Kind == snapshots.KindActive || info.Kind == snapshots.KindView {
			users = append(users, info)
		}
	})
	if err != nil {
		return survey{}, err
	}
	for _, user := range users {
		for name := user.Parent; name != ""; name = parents[name] {
			if chain, ok := remoteChain(name); ok {
				key := chain
				if name == user.Parent {
					key = userKey(user, chain)
				}
				sv.users[key]++
				break
			}
		}
	}
	return sv, nil
}

// walkInfo is storage.WalkInfo, for which a store that never held a snapshot is
// empty and not an error.
func walkInfo(ctx context.Context, fn func(snapshots.Info), filters ...string) error {
	seen := false
	err := storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
		seen = true
		fn(info)
		return nil
	}, filters...)
	if !seen && errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// idMap is storage.IDMap with the same meaning of an empty store.
func idMap(ctx context.Context) (map[string]string, error) {
	ids, err := storage.IDMap(ctx)
	if errdefs.IsNotFound(err) {
		return map[string]string{}, nil
	}
	return ids, err
}
