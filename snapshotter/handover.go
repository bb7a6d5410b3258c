package snapshotter

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// RawMounts is how others mount chains. Set in [Options], it has the list of a snapshot's mounts say how to mount
// the chain instead of where it is mounted. Whoever starts the container mounts it:
// containerd from 2.2 on, with its mount manager, or a runtime of virtual machines,
// in the guest. The Backend is then never asked to mount, and each container has a
// mount, a connection and a page cache of its own.
//
// The owner and mode of an image's root directory are not known without a mount:
// containers get root's and 0755.
type RawMounts struct {
	// Socket is the path of the 9P server's unix socket, which goes into the source
	// of mounts. It must not contain a comma.
	Socket string
	// MSize is the size of messages, bytes.
	MSize int
}

// formatOverlay is the type of an overlay whose options refer to the mounts listed
// before it.
const formatOverlay = "format/overlay"

// raw lists the 9P mount of a chain and, unless it is all there is, an overlay over
// it.
func (s *Snapshotter) raw(kind snapshots.Kind, id string, below lower) ([]mount.Mount, error) {
	chain, err := s.rawChain(below)
	if err != nil || kind == snapshots.KindView && len(below.locals) == 0 {
		return []mount.Mount{chain}, err
	}
	var lowers []string
	for _, local := range below.locals {
		lowers = append(lowers, s.fs(local))
	}
	var options []string
	if kind == snapshots.KindActive {
		options = append(options, "workdir="+s.work(id), "upperdir="+s.fs(id))
	}
	options = append(options, "lowerdir="+strings.Join(append(lowers, "{{ mount 0 }}"), ":"))
	options = append(options, s.overlay...)
	return []mount.Mount{chain, {Type: formatOverlay, Source: "overlay", Options: options}}, nil
}

func (s *Snapshotter) rawChain(below lower) (mount.Mount, error) {
	aname := "chain/" + below.chain
	if below.byBackend(below.ancestry) {
		aname += below.ids.String()
	}
	if strings.Contains(aname, ",") {
		return mount.Mount{}, fmt.Errorf("a 9P mount of several ranges of IDs cannot be written as options: %w", errdefs.ErrNotImplemented)
	}
	return mount.Mount{Type: "9p", Source: s.rawMounts.Socket, Options: []string{
		"ro", "trans=unix", "version=9p2000.L", "cache=loose", "access=any", fmt.Sprintf("msize=%d", s.rawMounts.MSize), "aname=" + aname,
	}}, nil
}

// checkRaw refuses what cannot be written into a list of mounts.
func checkRaw(r *RawMounts) error {
	if r != nil && (!filepath.IsAbs(r.Socket) || strings.ContainsAny(r.Socket, ",{") || r.MSize < 4096) {
		return invalid("raw mounts need an absolute path without special characters, not %q, and messages of 4096 bytes or more", r.Socket)
	}
	return nil
}

// rawAttrs are those of root's directory, as a user namespace has it.
func rawAttrs(sh shifting) attrs {
	a := defaultAttrs()
	if !sh.ids.None() {
		a.uid, a.gid = sh.uid, sh.gid
	}
	return a
}
