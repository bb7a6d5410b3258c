package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/idmap"
	"github.com/nineply/nineply/layerindex"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/snapshotter"
)

// cutIDs takes the maps of a user namespace off an attach name.
func cutIDs(aname string) (base string, ids idmap.Maps, err error) {
	base, ids, err = idmap.Cut(aname)
	if err != nil {
		return "", idmap.Maps{}, fserr.New(fserr.Invalid, "attach", "", err)
	}
	return base, ids, nil
}

// shifted is t as a user namespace is to see it.
func shifted(t p9server.Tree, ids idmap.Maps) p9server.Tree {
	if ids.None() {
		return t
	}
	return shiftedTree{t, ids}
}

// shiftedTree changes the owners of another tree's files, as they are told.
type shiftedTree struct {
	p9server.Tree
	ids idmap.Maps
}

// Attr implements p9server.Tree.
func (t shiftedTree) Attr(n uint64) (layerindex.Attr, error) {
	a, err := t.Tree.Attr(n)
	if err == nil {
		a.UID, a.GID = t.ids.Shift(a.UID, a.GID)
	}
	return a, err
}

var _ snapshotter.IDMapper = backend{}

// MountMapped implements snapshotter.IDMapper: a mount of its own, of the same
// tree, the same index and the same chunks.
func (b backend) MountMapped(ctx context.Context, chainID string, ids idmap.Maps) (string, error) {
	target, err := b.mappedTarget(chainID, ids)
	if err != nil {
		return "", err
	}
	return target, b.mountAt(ctx, "chain/"+chainID+ids.String(), target)
}

// UnmountMapped implements snapshotter.IDMapper.
func (b backend) UnmountMapped(ctx context.Context, chainID string, ids idmap.Maps) error {
	target, err := b.mappedTarget(chainID, ids)
	if err != nil {
		return err
	}
	return b.unmountAt(ctx, target)
}

func (b backend) mappedTarget(chainID string, ids idmap.Maps) (string, error) {
	target, err := b.target(chainID)
	sum := sha256.Sum256([]byte(ids.String()))
	return target + "-" + hex.EncodeToString(sum[:8]), err
}
