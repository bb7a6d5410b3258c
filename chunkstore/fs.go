package chunkstore

import (
	"io"
	"io/fs"
)

// FS is every file operation the store makes outside of its index database. The
// default is the operating system; tests put a failing or forgetful one in
// between.
type FS interface {
	// OpenFile is os.OpenFile.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Remove unlinks one file.
	Remove(name string) error
	// Rename is os.Rename.
	Rename(oldname, newname string) error
	// MkdirAll is os.MkdirAll.
	MkdirAll(name string, perm fs.FileMode) error
	// ReadDir gives the names in a directory, sorted.
	ReadDir(name string) ([]string, error)
	// SyncDir makes creations, renames and removals in a directory durable.
	SyncDir(name string) error
	// Free is how many bytes the file system of name can still take.
	Free(name string) (int64, error)
	// Lock takes an exclusive lock on a file it creates if needed. It fails
	// with an fserr.Busy error if another process, or another store of this
	// process, holds it.
	Lock(name string) (io.Closer, error)
	// BootID names the running boot of the machine: as long as it is the same,
	// everything ever written is still in the page cache.
	BootID() string
}

// File is an open segment or state file. All methods may be called at the same
// time; after Close they fail with an error matching fs.ErrClosed.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// ReadVAt fills the buffers one after the other from off on, and gives the
	// number of bytes read; fewer than asked only at the end of the file, then
	// with io.EOF. It keeps neither the slice nor the buffers.
	ReadVAt(bufs [][]byte, off int64) (int, error)
	// Sync makes the content durable.
	Sync() error
	// Truncate sets the file's size.
	Truncate(size int64) error
	// Size is the file's size in bytes.
	Size() (int64, error)
	// PunchHole frees the blocks wholly inside [off, off+n); they read as zeros.
	// errors.ErrUnsupported if the file system cannot.
	PunchHole(off, n int64) error
}
