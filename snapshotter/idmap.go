package snapshotter

import (
	"fmt"
	"os"
	"syscall"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/nineply/nineply/internal/idmap"
)

// attrs are owner and permissions of a root directory.
type attrs struct {
	uid, gid int
	mode     os.FileMode
}

// defaultAttrs are those of a root with nothing below it.
func defaultAttrs() attrs { return attrs{mode: 0o755} }

// attrsOf reads them from the directory a snapshot is put on: in an overlay the
// upper root's attributes hide those of all lowers.
func attrsOf(dir string) (attrs, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return attrs{}, fmt.Errorf("root of the parent: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.IsDir() {
		return attrs{}, fmt.Errorf("root of the parent: %s is not a directory", dir)
	}
	return attrs{
		uid: int(st.Uid), gid: int(st.Gid),
		mode: fi.Mode() & (os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky),
	}, nil
}

// shifting is what the labels of a snapshot ask for.
type shifting struct {
	ids      idmap.Maps // none: nothing is to be shifted
	asked    bool
	uid, gid int // the host's owner of what root owns inside
}

// parseShifting reads the mapping that a client asks for with labels: containerd
// does for containers with a user namespace.
func parseShifting(labels map[string]string) (shifting, error) {
	uid, byUser := labels[snapshots.LabelSnapshotUIDMapping]
	gid, byGroup := labels[snapshots.LabelSnapshotGIDMapping]
	if !byUser && !byGroup {
		return shifting{}, nil
	}
	if !byUser || !byGroup {
		return shifting{}, invalid("labels %s and %s: one without the other", snapshots.LabelSnapshotUIDMapping, snapshots.LabelSnapshotGIDMapping)
	}
	ids, err := idmap.ParseMaps(uid, gid)
	if err != nil {
		return shifting{}, invalid("labels %s and %s: %w", snapshots.LabelSnapshotUIDMapping, snapshots.LabelSnapshotGIDMapping, err)
	}
	rootUID, okUID := ids.UID.Host(0)
	rootGID, okGID := ids.GID.Host(0)
	if !okUID || !okGID {
		return shifting{}, invalid("labels %s and %s: ID 0 is not mapped", snapshots.LabelSnapshotUIDMapping, snapshots.LabelSnapshotGIDMapping)
	}
	sh := shifting{ids: ids, asked: true, uid: int(rootUID), gid: int(rootGID)}
	if ids.UID.Identity() && ids.GID.Identity() {
		sh.ids = idmap.Maps{}
	}
	return sh, nil
}

// byBackend says that the files of the chain below are to be shifted by who
// serves them: nothing lies between.
func (sh shifting) byBackend(below ancestry) bool {
	return !sh.ids.None() && below.chain != "" && len(below.locals) == 0
}

// byKernel says that containerd is to mount the layers, which are directories
// here, with their owners mapped.
func (sh shifting) byKernel(below ancestry, root attrs) bool {
	return !sh.ids.None() && below.chain == "" && len(below.locals) > 0 && (root.uid != sh.uid || root.gid != sh.gid)
}

// mapRoot gives the attributes of a new root. Where a parent is there already and
// nobody shifts it, it must have been shifted before, as containerd does for
// snapshotters that do not claim the capability remap-ids.
func mapRoot(a attrs, sh shifting, below ancestry) (attrs, error) {
	if !sh.asked || sh.byBackend(below) {
		return a, nil
	}
	if below.chain != "" && !sh.ids.None() && (sh.uid != a.uid || sh.gid != a.gid) {
		return attrs{}, fmt.Errorf("the parent, owned by %d:%d, has layers made on this host above remote ones, which cannot be mapped to %d:%d: %w",
			a.uid, a.gid, sh.uid, sh.gid, errdefs.ErrNotImplemented)
	}
	a.uid, a.gid = sh.uid, sh.gid
	return a, nil
}
