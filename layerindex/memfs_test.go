package layerindex_test

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/nineply/nineply/layerindex"
)

// memFS keeps files in memory, notes what is done to them, and fails the step
// number fail, counted from 1, with err.
type memFS struct {
	files map[string][]byte
	log   []string
	fail  int
	err   error
}

func newMemFS() *memFS { return &memFS{files: map[string][]byte{}} }

func (m *memFS) step(what string) error {
	if n := len(m.log); n == 0 || m.log[n-1] != what || m.fail != 0 {
		m.log = append(m.log, what)
	}
	if m.fail == len(m.log) {
		return fmt.Errorf("%s: %w", what, m.err)
	}
	return nil
}

func (m *memFS) CreateTemp(dir, pattern string) (layerindex.TempFile, error) {
	if err := m.step("create"); err != nil {
		return nil, err
	}
	f := &memFile{fs: m, name: dir + "/" + pattern[:len(pattern)-1] + "1"}
	m.files[f.name] = nil
	return f, nil
}

func (m *memFS) Rename(from, to string) error {
	if err := m.step("rename"); err != nil {
		return err
	}
	m.files[to] = m.files[from]
	delete(m.files, from)
	return nil
}

func (m *memFS) Remove(name string) error {
	if _, ok := m.files[name]; !ok {
		return fs.ErrNotExist
	}
	delete(m.files, name)
	return m.step("remove")
}

func (m *memFS) SyncDir(string) error { return m.step("sync directory") }

type memFile struct {
	fs     *memFS
	name   string
	closed bool
}

func (f *memFile) Name() string { return f.name }

// Write takes only a part of p when it fails.
func (f *memFile) Write(p []byte) (int, error) {
	if err := f.fs.step("write"); err != nil {
		f.fs.files[f.name] = append(f.fs.files[f.name], p[:len(p)/2]...)
		return len(p) / 2, err
	}
	f.fs.files[f.name] = append(f.fs.files[f.name], p...)
	return len(p), nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.step("write header"); err != nil {
		return 0, err
	}
	return copy(f.fs.files[f.name][off:], p), nil
}

func (f *memFile) Sync() error { return f.fs.step("sync") }

func (f *memFile) Close() error {
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return f.fs.step("close")
}

// encode builds a layer index in memory.
func encode(b *layerindex.Builder) ([]byte, error) {
	m := newMemFS()
	b.SetFS(m)
	err := b.WriteFile("d/x")
	return m.files["d/x"], err
}

// encodeMerged merges in memory.
func encodeMerged(layers ...*layerindex.Index) ([]byte, error) {
	m := newMemFS()
	err := layerindex.MergeTo(m, "d/x", layers)
	return slices.Clone(m.files["d/x"]), err
}
