package layerstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
)

// The names in the directory of a layer.
const (
	nameDiff = "diff"
	nameInfo = "info"
	nameBlob = "blob"
	nameUse  = "use"
)

// FS is the file system of a store, mounted.
type FS struct{ server *fuse.Server }

// FSOptions say how a store is shown.
type FSOptions struct {
	// AllowOther lets other users than the one who mounts it in, and with them to
	// every image that the daemon has credentials for.
	AllowOther bool
}

// Mount mounts a store on a directory, which is made if need be. What a store that
// was killed left there is taken away.
func Mount(s *Store, target string, o FSOptions) (*FS, error) {
	if err := makeTarget(target); err != nil {
		return nil, err
	}
	var uncached time.Duration // whether there is a layer changes at any time
	server, err := fusefs.Mount(target, &imagesNode{store: s}, &fusefs.Options{
		EntryTimeout: &uncached, AttrTimeout: &uncached, NegativeTimeout: &uncached,
		UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), //nolint:gosec // IDs are not negative
		MountOptions: fuse.MountOptions{
			AllowOther: o.AllowOther, DirectMount: true, DirectMountFlags: unix.MS_NOSUID | unix.MS_NODEV,
			FsName: "layers", Name: "nineply", DisableXAttrs: true,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("mount layer store on %s: %w", target, err)
	}
	return &FS{server}, nil
}

// makeTarget makes the mount point, and takes a dead mount from it.
func makeTarget(target string) error {
	_, err := os.Stat(target)
	if !errors.Is(err, unix.ENOTCONN) {
		return os.MkdirAll(target, 0o755)
	}
	if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fserr.New(fserr.Busy, "take a dead mount from", target, err)
	}
	return nil
}

// Wait returns when the file system is not mounted any more.
func (f *FS) Wait() { f.server.Wait() }

// Unmount takes it away; containers that use its layers go on.
func (f *FS) Unmount(target string) error {
	err := f.server.Unmount()
	if err == nil {
		return nil
	}
	if lerr := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); lerr != nil {
		return errors.Join(err, lerr)
	}
	return nil
}

func caller(ctx context.Context) uint32 {
	if c, ok := fuse.FromContext(ctx); ok {
		return c.Uid
	}
	return 0
}

func directory(out *fuse.Attr) { out.Mode = syscall.S_IFDIR | 0o755 }

// imagesNode is the root: a directory for each reference there might be. Listing it
// shows those that are known.
type imagesNode struct {
	fusefs.Inode

	store *Store
}

var (
	_ fusefs.NodeLookuper  = (*imagesNode)(nil)
	_ fusefs.NodeReaddirer = (*imagesNode)(nil)
)

func (n *imagesNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	ref, ok := decodeRef(name)
	if !ok {
		return nil, syscall.ENOENT
	}
	directory(&out.Attr)
	return n.NewInode(ctx, &imageNode{store: n.store, ref: ref}, fusefs.StableAttr{Mode: syscall.S_IFDIR}), 0
}

func (n *imagesNode) Readdir(context.Context) (fusefs.DirStream, syscall.Errno) {
	var list []fuse.DirEntry
	last := ""
	for _, r := range n.store.List() {
		if r.Ref != last {
			list = append(list, fuse.DirEntry{Name: encodeRef(r.Ref), Mode: syscall.S_IFDIR})
		}
		last = r.Ref
	}
	return fusefs.NewListDirStream(list), 0
}

// imageNode has a directory for each layer of an image.
type imageNode struct {
	fusefs.Inode

	store *Store
	ref   string
}

var (
	_ fusefs.NodeLookuper  = (*imageNode)(nil)
	_ fusefs.NodeReaddirer = (*imageNode)(nil)
	_ fusefs.NodeRmdirer   = (*imageNode)(nil)
)

func (n *imageNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	if _, err := estargz.ParseDigest(name); err != nil {
		return nil, syscall.ENOENT
	}
	r, err := n.store.Lookup(ctx, n.ref, name)
	if err != nil {
		return nil, n.store.errno("look up", n.ref, name, err)
	}
	directory(&out.Attr)
	return n.NewInode(ctx, &layerNode{store: n.store, record: r}, fusefs.StableAttr{Mode: syscall.S_IFDIR}), 0
}

func (n *imageNode) Readdir(context.Context) (fusefs.DirStream, syscall.Errno) {
	var list []fuse.DirEntry
	for _, r := range n.store.List() {
		if r.Ref == n.ref {
			list = append(list, fuse.DirEntry{Name: r.Name, Mode: syscall.S_IFDIR})
		}
	}
	return fusefs.NewListDirStream(list), 0
}

// Rmdir is how a client says that it does not need the layer any more. The directory
// stays.
func (n *imageNode) Rmdir(ctx context.Context, name string) syscall.Errno {
	if err := n.store.Release(ctx, n.ref, name, caller(ctx)); err != nil {
		return n.store.errno("release", n.ref, name, err)
	}
	return syscall.ENOENT
}

// layerNode is the directory of a layer.
type layerNode struct {
	fusefs.Inode

	store  *Store
	record Record
}

var (
	_ fusefs.NodeLookuper  = (*layerNode)(nil)
	_ fusefs.NodeReaddirer = (*layerNode)(nil)
	_ fusefs.NodeCreater   = (*layerNode)(nil)
)

func (n *layerNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	var child fusefs.InodeEmbedder
	switch name {
	case nameDiff:
		out.Mode = syscall.S_IFLNK | 0o777
		child = &diffNode{store: n.store, ref: n.record.Ref, name: n.record.Name}
	case nameInfo:
		text, err := n.record.Info()
		if err != nil {
			return nil, n.store.errno("describe", n.record.Ref, n.record.Name, err)
		}
		out.Mode, out.Size = syscall.S_IFREG|0o444, uint64(len(text))
		child = &fusefs.MemRegularFile{Data: text, Attr: fuse.Attr{Mode: 0o444}}
	case nameBlob:
		blob := &blobNode{store: n.store, record: n.record}
		blob.attr(&out.Attr)
		child = blob
	default:
		return nil, syscall.ENOENT
	}
	return n.NewInode(ctx, child, fusefs.StableAttr{Mode: out.Mode & syscall.S_IFMT}), 0
}

func (n *layerNode) Readdir(context.Context) (fusefs.DirStream, syscall.Errno) {
	return fusefs.NewListDirStream([]fuse.DirEntry{
		{Name: nameBlob, Mode: syscall.S_IFREG}, {Name: nameDiff, Mode: syscall.S_IFLNK}, {Name: nameInfo, Mode: syscall.S_IFREG},
	}), 0
}

// Create is how a client says that it keeps the layer. The file is never there.
func (n *layerNode) Create(ctx context.Context, name string, _, _ uint32, _ *fuse.EntryOut) (*fusefs.Inode, fusefs.FileHandle, uint32, syscall.Errno) {
	if name != nameUse {
		return nil, nil, 0, syscall.EROFS
	}
	if err := n.store.Use(ctx, n.record.Ref, n.record.Name, caller(ctx)); err != nil {
		return nil, nil, 0, n.store.errno("use", n.record.Ref, n.record.Name, err)
	}
	return nil, nil, 0, syscall.ENOENT
}

// diffNode is the link to where the layer is mounted.
type diffNode struct {
	fusefs.Inode

	store     *Store
	ref, name string
}

var _ fusefs.NodeReadlinker = (*diffNode)(nil)

func (n *diffNode) Readlink(ctx context.Context) ([]byte, syscall.Errno) {
	target, err := n.store.Target(ctx, n.ref, n.name)
	if err != nil {
		return nil, n.store.errno("mount", n.ref, n.name, err)
	}
	return []byte(target), 0
}

// blobNode is the layer's blob.
type blobNode struct {
	fusefs.Inode

	store  *Store
	record Record
}

var (
	_ fusefs.NodeGetattrer = (*blobNode)(nil)
	_ fusefs.NodeOpener    = (*blobNode)(nil)
)

func (n *blobNode) attr(out *fuse.Attr) {
	out.Mode, out.Size = syscall.S_IFREG|0o444, uint64(max(n.record.Layer.Size, 0))
}

func (n *blobNode) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	return 0
}

func (n *blobNode) Open(_ context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		return nil, 0, syscall.EROFS
	}
	return &blobFile{node: n}, fuse.FOPEN_DIRECT_IO, 0
}

// blobFile is an open blob. Blobs are read from their beginning to their end, so it
// has one large piece of it.
type blobFile struct {
	node *blobNode

	mu   sync.Mutex
	at   int64
	data []byte
}

var _ fusefs.FileReader = (*blobFile)(nil)

func (f *blobFile) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < f.at || off >= f.at+int64(len(f.data)) {
		data, err := f.node.store.ReadBlob(ctx, &f.node.record, off, control.MaxBlobRead)
		if err != nil {
			return nil, f.node.store.errno("read the blob of", f.node.record.Ref, f.node.record.Name, err)
		}
		f.at, f.data = off, data
	}
	return fuse.ReadResultData(dest[:copy(dest, f.data[off-f.at:])]), 0
}
