package p9server

import (
	"context"

	"github.com/nineply/nineply/layerindex"
)

// Tree is an immutable file tree. A node is named by a number that is also its
// inode number: the same node has the same number after any restart, and hard
// links share one. Methods may be called concurrently. All but ReadAt answer
// from memory (or a mapping) without waiting for a network, and should not
// allocate. Byte slices they return are only read, and must stay valid until
// the attach is released.
//
// Errors are answered with the errno of their kind ([fserr.Errno]).
type Tree interface {
	// Root is the node that an attach starts from.
	Root() uint64
	// Lookup finds name in dir. name is never "." or "..", never empty, at most
	// 255 bytes, without '/' and NUL, and must not be kept. Kinds: NotExist,
	// NotDir.
	Lookup(dir uint64, name []byte) (uint64, error)
	// Attr gives the metadata of n.
	Attr(n uint64) (layerindex.Attr, error)
	// Parent gives the directory that holds dir, the root for the root.
	Parent(dir uint64) (uint64, error)
	// Readdir gives the entry of dir at position pos, 0 being the first, and
	// the position of the next one. ok is false past the last. Positions are
	// below 1<<62, and mean the same after any restart. "." and ".." are not
	// among the entries.
	Readdir(dir uint64, pos uint64) (e layerindex.Dirent, next uint64, ok bool, err error)
	// Readlink gives the target of a symbolic link.
	Readlink(n uint64) ([]byte, error)
	// Xattr gives an extended attribute's value. Kind NoAttr if there is none.
	Xattr(n uint64, name []byte) ([]byte, error)
	// XattrNames calls fn for each name until fn returns false; the order is
	// always the same.
	XattrNames(n uint64, fn func(name []byte) bool) error
	// TryReadAt fills p from offset off of a regular file if the bytes are at
	// hand, and returns false if it would have to wait for them. The whole
	// connection waits meanwhile: what may take longer than a memory copy, such
	// as a disk that must seek, is better left to ReadAt. p never reaches past
	// the end of the file.
	TryReadAt(n uint64, p []byte, off int64) (int, bool, error)
	// ReadAt fills p as TryReadAt does, and waits for the bytes as long as ctx
	// lasts. Neither returns io.EOF; both return 0 bytes only at the end.
	ReadAt(ctx context.Context, n uint64, p []byte, off int64) (int, error)
	// Statfs describes the file system. Its FSID is different for different
	// trees: it makes the version of all qids.
	Statfs() Statfs
}

// Statfs describes a file system to statfs(2). Sizes are in units of
// BlockSize. Zero values of Type, BlockSize and NameLen stand for the magic
// number of v9fs, 4096 bytes and 255 bytes.
type Statfs struct {
	Type       uint32
	BlockSize  uint32
	Blocks     uint64
	BlocksFree uint64
	Files      uint64
	FilesFree  uint64
	FSID       uint64
	NameLen    uint32
}

// Exporter finds the tree that an attach name stands for, and decides whether
// this client may have it.
type Exporter interface {
	// Attach may wait for a network as long as ctx lasts. release, which may be
	// nil, is called exactly once: when the last fid of the attach is gone and
	// no read of it is left. It must not block. ctx descends from the context
	// of the connection (see [Options.ConnContext]).
	Attach(ctx context.Context, aname string) (tree Tree, release func(), err error)
}
