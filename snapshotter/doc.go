// Package snapshotter is a containerd remote snapshotter: layers that a
// [Backend] can serve become committed snapshots without being downloaded, and
// a container's root is an overlay over one mount of the whole image.
//
// It holds metadata only. Snapshots, their parents and labels are in a bolt
// file (containerd's core/snapshots/storage); whatever has bytes is behind the
// Backend. The package knows no file format and no wire protocol of the mounts
// it hands out.
//
// # How a pull passes through
//
// containerd calls Prepare for each layer with the label
// containerd.io/snapshot.ref, the chain ID it wants. The labels naming image
// and layer are parsed and validated (they can be written by whoever made the
// image), the Backend is asked to add the layer, and the result is committed
// under a name of this package, "@remote/" and the chain ID, with the labels
// kept and the given parent. The answer is AlreadyExists, which tells containerd
// to skip the download. No mount is made. What the Backend cannot read at all is
// handed back to containerd: the answer is then a writable snapshot, and the
// reason is logged and counted.
//
// A remote snapshot's parent is always remote too, or nothing. So the ancestors
// of any snapshot are zero or more layers unpacked on this host, then zero or
// more remote ones, and the remote part is one chain with one merged tree.
//
// # How a container starts
//
// Prepare and View without that label find the nearest remote ancestor, have the
// Backend mount its chain (once, shared by all users), and build an overlay: the
// upper directories of local layers, then the mounted chain as lowest lower.
// Mounts does the same again at any time, which is how mounts come back after a
// restart. A chain's users are the active and view snapshots above it, read from
// the metadata and never from memory.
//
// A container in a user namespace has a mapping of IDs among its labels. Its chain
// is then mounted once more, by a Backend that is an [IDMapper], with each owner
// shifted; nothing is copied. Layers that are directories of this host get the
// options by which containerd's mounts map them. Both at once is not possible.
//
// # What is on disk
//
//	metadata.db     snapshots
//	snapshots/ID/   fs and work of local ones; fs of a remote one is a symbolic
//	                link to its mount, made when an overlay needs it
//	chains/CHAIN    the Backend may hold a reference for CHAIN; written before the
//	                Backend is asked, removed after it was told to forget
//	mounts/CHAIN    CHAIN may be mounted; made before, removed after
//	mounts/CHAIN.*  CHAIN may be mounted with other owners, for a user namespace
//
// The two directories are a journal of intent. Whatever point a process dies at,
// Cleanup compares them with the metadata and undoes what no snapshot needs.
// Starting and closing do not touch mounts, the network or snapshots.
//
// # Locks
//
// Order: the cleanup gate, then the lock of one chain, then a metadata
// transaction. No Backend call is made inside a transaction. At most one chain
// lock is held at a time.
package snapshotter
