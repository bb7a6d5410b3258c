package snapshotter

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
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

// mapRoot applies the ID mapping a client asks for with labels. Shifting the
// files of a parent is not offered, so the mapping must be one the parent has
// already: containerd makes a shifted copy of an image for snapshotters that do
// not claim the capability remap-ids.
func mapRoot(a attrs, labels map[string]string, hasParent bool) (attrs, error) {
	uid, mapped, err := hostRoot(labels, snapshots.LabelSnapshotUIDMapping, a.uid)
	if err != nil {
		return attrs{}, err
	}
	gid, mappedGID, err := hostRoot(labels, snapshots.LabelSnapshotGIDMapping, a.gid)
	if err != nil {
		return attrs{}, err
	}
	if !mapped && !mappedGID {
		return a, nil
	}
	if hasParent && (uid != a.uid || gid != a.gid) {
		return attrs{}, fmt.Errorf("mapping the parent's owner %d:%d to %d:%d is not supported; the proxy plugin must not claim the capability remap-ids: %w",
			a.uid, a.gid, uid, gid, errdefs.ErrNotImplemented)
	}
	a.uid, a.gid = uid, gid
	return a, nil
}

// hostRoot finds the host's ID for ID 0 in a label such as "0:100000:65536".
func hostRoot(labels map[string]string, key string, fallback int) (id int, mapped bool, err error) {
	value, ok := labels[key]
	if !ok {
		return fallback, false, nil
	}
	for entry := range strings.SplitSeq(value, ",") {
		inside, host, size, err := parseMapping(entry)
		if err != nil {
			return 0, false, invalid("label %s: %w", key, err)
		}
		if inside == 0 && size > 0 {
			return int(host), true, nil
		}
	}
	return 0, false, invalid("label %s: %.128q maps no ID 0", key, value)
}

func parseMapping(entry string) (inside, host, size uint32, err error) {
	parts := strings.Split(entry, ":")
	if len(parts) != 3 {
		return 0, 0, 0, fmt.Errorf("%.64q is not container:host:size", entry)
	}
	var n [3]uint32
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return 0, 0, 0, fmt.Errorf("%.64q is not container:host:size: %w", entry, err)
		}
		n[i] = uint32(v)
	}
	return n[0], n[1], n[2], nil
}
