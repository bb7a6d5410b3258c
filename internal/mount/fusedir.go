package mount

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/nineply/nineply/internal/p9client"
)

// Sizes of directory entries on the FUSE side: the fixed part of one, and of
// the attributes that go before it with READDIRPLUS. Names are padded to 8.
const (
	direntFixed = 24
	entryFixed  = 128
)

func direntSize(name string, plus bool) int {
	n := direntFixed + (len(name)+7)&^7
	if plus {
		n += entryFixed
	}
	return n
}

// maxListing is the most that is read of a directory in one message, bytes.
const maxListing = 64 << 10

// list reads the entries that follow the cookie off, as many as fit size bytes
// of reply.
func (f *front) list(ctx context.Context, n *node, off uint64, size int, plus bool) ([]p9client.Dirent, error) {
	buf := f.listings.Get().(*[]byte)
	defer f.listings.Put(buf)
	want := size
	if plus {
		want = size / 2 // even long names take over twice as much with attributes
	}
	ents, err := f.t.readdir(ctx, n, off, (*buf)[:min(max(want, 1024), maxListing)])
	if err != nil {
		return nil, err
	}
	used := 0
	for i, e := range ents {
		if used += direntSize(e.Name, plus); used > size {
			return ents[:i], nil
		}
	}
	return ents, nil
}

// ReadDir is used by kernels that do not want attributes.
func (f *front) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.run(opReaddir, cancel, &in.InHeader, func(ctx context.Context, dir *node) error {
		ents, err := f.list(ctx, dir, in.Offset, int(in.Size), false)
		if err != nil {
			return err
		}
		for _, e := range ents {
			if !out.AddDirEntry(dirEntry(&e)) {
				break
			}
		}
		return nil
	})
}

func dirEntry(e *p9client.Dirent) fuse.DirEntry {
	return fuse.DirEntry{Name: e.Name, Ino: e.QID.Path, Mode: uint32(e.Type) << 12, Off: e.Offset}
}

// ReadDirPlus lists a directory with the attributes of everything in it, so
// that a walk over the tree needs no lookup at all.
func (f *front) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.run(opReaddir, cancel, &in.InHeader, func(ctx context.Context, dir *node) error {
		ents, err := f.list(ctx, dir, in.Offset, int(in.Size), true)
		if err != nil || len(ents) == 0 {
			return err
		}
		names := make([]string, 0, len(ents))
		for _, e := range ents {
			if !isDots(e.Name) {
				names = append(names, e.Name)
			}
		}
		stats, err := f.t.statEntries(ctx, dir, names)
		if err != nil {
			return err
		}
		f.addEntries(out, dir, ents, stats)
		return nil
	})
}

func isDots(name string) bool { return name == "." || name == ".." }

// addEntries writes the reply. An entry without attributes (node number 0) is
// listed all the same; the kernel looks it up when it needs to.
func (f *front) addEntries(out *fuse.DirEntryList, dir *node, ents []p9client.Dirent, stats []p9client.StatResult) {
	next := 0
	for i := range ents {
		e := &ents[i]
		entry := out.AddDirLookupEntry(dirEntry(e))
		if entry == nil {
			return
		}
		if isDots(e.Name) {
			continue
		}
		st := &stats[next]
		next++
		if st.Err != nil {
			continue
		}
		if n := f.t.refer(dir, e.Name, &st.Attr, st.Bare); n != nil {
			fillEntry(entry, n, &st.Attr)
		}
	}
}
