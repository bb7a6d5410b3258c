package faultfs

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"sync"
	"syscall"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fserr"
)

// ErrPowerCut is what every call gets once the power is cut.
var ErrPowerCut = errors.New("power cut")

// Call describes a call about to be made.
type Call struct {
	Op     string // open, create, read, write, sync, truncate, punch, size, rename, remove, syncdir, readdir, or what Change was told
	Path   string
	Off, N int64
	Index  int // number of the change, from 0; -1 if the call changes nothing
}

// Torn is an error for [FS.Inject] to fail a write with after part of it.
type Torn struct {
	N   int64 // bytes that are written all the same
	Err error
}

// Error implements error.
func (t Torn) Error() string { return t.Err.Error() }

// Unwrap gives the cause.
func (t Torn) Unwrap() error { return t.Err }

// FS is a file system in memory. The zero value is not usable; see [New].
type FS struct {
	mu       sync.Mutex
	names    map[string]*inode
	durable  map[string]*inode
	renames  []func(map[string]*inode) // changes of names since the last SyncDir
	locked   map[string]bool
	inject   func(Call) error
	changes  int
	cutAt    int // -1: never
	capacity int64
	boot     string
}

var _ chunkstore.FS = (*FS)(nil)

// New gives an empty file system that works.
func New() *FS { return build(map[string]*inode{}, "boot") }

func build(names map[string]*inode, boot string) *FS {
	return &FS{
		names: names, durable: maps.Clone(names), locked: map[string]bool{},
		cutAt: -1, capacity: 1 << 40, boot: boot,
	}
}

// Change counts a change that is made elsewhere but shares the fate of the disk, and
// says whether it may be made: it fails on request, or with the power.
func (f *FS) Change(op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.check(op, name, 0, 0, true)
}

// Inject has every call shown to fn first; an error from it is the call's. nil
// ends that.
func (f *FS) Inject(fn func(Call) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inject = fn
}

// CutPower lets the change with this number, and all calls after it, fail.
func (f *FS) CutPower(at int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cutAt = at
}

// Dead says whether the power has been cut.
func (f *FS) Dead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cutAt >= 0 && f.changes > f.cutAt
}

// SetCapacity makes the disk this large, in bytes.
func (f *FS) SetCapacity(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.capacity = n
}

// Changes is how many changes have been asked for.
func (f *FS) Changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

// Allocated is how many bytes files with this suffix take, holes left out.
func (f *FS) Allocated(suffix string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.allocated(suffix)
}

func (f *FS) allocated(suffix string) int64 {
	var n int64
	for name, node := range f.names {
		if len(name) >= len(suffix) && name[len(name)-len(suffix):] == suffix {
			n += node.now.allocated()
		}
	}
	return n
}

// Names lists the files there are, sorted.
func (f *FS) Names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.names))
}

// Edit changes a file's bytes behind the program's back. fn gets all of them.
func (f *FS) Edit(name string, fn func(data []byte)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	node := f.names[name]
	data := make([]byte, node.now.size)
	if _, err := node.now.readAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		panic(err)
	}
	before := slices.Clone(data)
	fn(data)
	for off := 0; off < len(data); off += pageSize {
		end := min(off+pageSize, len(data))
		if !slices.Equal(data[off:end], before[off:end]) {
			node.now.writeAt(data[off:end], int64(off))
		}
	}
	node.sync()
}

// AfterPowerCut gives a file system with what may be left after a cut now. odds
// is the probability with which an unsynced change has reached the disk.
func (f *FS) AfterPowerCut(rng *rand.Rand, odds float64) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := maps.Clone(f.durable)
	for _, change := range f.renames {
		if rng.Float64() >= odds {
			break
		}
		change(names)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		names[name] = names[name].survivor(rng, odds)
	}
	next := build(names, f.boot+"+")
	next.capacity = f.capacity
	return next
}

// AfterKill gives a file system with all there is, as after the death of the
// process alone.
func (f *FS) AfterKill() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := map[string]*inode{}
	for name, node := range f.names {
		names[name] = &inode{now: node.now.clone(), durable: node.durable.clone(), since: slices.Clone(node.since)}
	}
	next := build(names, f.boot)
	next.capacity = f.capacity
	return next
}

// check is the beginning of every call; mu is held.
func (f *FS) check(op, name string, off, n int64, changes bool) error {
	c := Call{Op: op, Path: name, Off: off, N: n, Index: -1}
	if changes {
		c.Index = f.changes
		f.changes++
	}
	if f.cutAt >= 0 && f.changes > f.cutAt {
		return &fs.PathError{Op: op, Path: name, Err: ErrPowerCut}
	}
	if f.inject == nil {
		return nil
	}
	if err := f.inject(c); err != nil {
		var torn Torn
		if errors.As(err, &torn) {
			return torn
		}
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// rename makes a change of names that a power cut may undo; mu is held.
func (f *FS) rename(change func(map[string]*inode)) {
	change(f.names)
	f.renames = append(f.renames, change)
}

// OpenFile implements [chunkstore.FS].
func (f *FS) OpenFile(name string, flag int, _ fs.FileMode) (chunkstore.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	node := f.names[name]
	op := "open"
	if node == nil && flag&os.O_CREATE != 0 {
		op = "create"
	}
	if err := f.check(op, name, 0, 0, op == "create" || flag&os.O_TRUNC != 0); err != nil {
		return nil, err
	}
	switch {
	case node == nil && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	case node != nil && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrExist}
	case node == nil:
		node = newInode()
		f.rename(func(names map[string]*inode) { names[name] = node })
	case flag&os.O_TRUNC != 0:
		node.do(func(c *content) { c.truncate(0) })
	}
	return &file{fs: f, name: name, node: node}, nil
}

// Remove implements [chunkstore.FS].
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check("remove", name, 0, 0, true); err != nil {
		return err
	}
	if f.names[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	f.rename(func(names map[string]*inode) { delete(names, name) })
	return nil
}

// Rename implements [chunkstore.FS].
func (f *FS) Rename(oldname, newname string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check("rename", oldname, 0, 0, true); err != nil {
		return err
	}
	if f.names[oldname] == nil {
		return &fs.PathError{Op: "rename", Path: oldname, Err: fs.ErrNotExist}
	}
	f.rename(func(names map[string]*inode) {
		if node := names[oldname]; node != nil {
			names[newname] = node
			delete(names, oldname)
		}
	})
	return nil
}

// MkdirAll implements [chunkstore.FS]. Directories need no making.
func (f *FS) MkdirAll(name string, _ fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.check("mkdir", name, 0, 0, false)
}

// ReadDir implements [chunkstore.FS].
func (f *FS) ReadDir(name string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check("readdir", name, 0, 0, false); err != nil {
		return nil, err
	}
	var list []string
	for file := range f.names {
		if path.Dir(file) == path.Clean(name) {
			list = append(list, path.Base(file))
		}
	}
	slices.Sort(list)
	return list, nil
}

// SyncDir implements [chunkstore.FS]. It syncs the names of all directories:
// the disk never keeps less than was asked for.
func (f *FS) SyncDir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check("syncdir", name, 0, 0, true); err != nil {
		return err
	}
	f.durable = maps.Clone(f.names)
	f.renames = nil
	return nil
}

// Free implements [chunkstore.FS].
func (f *FS) Free(string) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(0, f.capacity-f.allocated("")), nil
}

// Lock implements [chunkstore.FS].
func (f *FS) Lock(name string) (io.Closer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.locked[name] {
		return nil, fserr.New(fserr.Busy, "lock", name, syscall.EWOULDBLOCK)
	}
	f.locked[name] = true
	return unlocker{f, name}, nil
}

type unlocker struct {
	fs   *FS
	name string
}

func (u unlocker) Close() error {
	u.fs.mu.Lock()
	defer u.fs.mu.Unlock()
	delete(u.fs.locked, u.name)
	return nil
}

// BootID implements [chunkstore.FS]. It changes with every power cut.
func (f *FS) BootID() string { return f.boot }
