// Package layerstore is an additional layer store for Podman, CRI-O and Buildah:
// a small file system that containers/storage looks for layers in before it pulls
// them.
//
//	<store>/<base64 of the image reference>/<digest>/diff   the layer's files
//	                                                 info   its description, JSON
//	                                                 blob   its blob
//
// The digest is that of the layer's blob (containers/storage up to 1.53) or of its
// TOC (from 1.54). A directory is there as soon as somebody looks for it, if the
// image has such a layer: the daemon then makes the layer servable, as it does for
// containerd.
//
// A client that keeps a layer creates <digest>/use, and removes the directory
// <digest> when it does not need the layer any more. Both are answered ENOENT, as
// the protocol demands, and counted. The counts are written to a file before they
// are answered, so a store that is started again knows what is used, and of which
// image, even if the tag leads elsewhere by then.
//
// diff is a symbolic link to a mount that the keeper holds. Containers stand on
// these mounts alone: neither the daemon nor the process of this file system has to
// live for them. The link is resolved, and the mount made again if need be, each
// time a container is started.
//
// Store has the counts and asks the daemon; FS shows them. The package moves no
// file content, except when a client reads blob to push or save an image.
//
// Locks: a chain's lock (Store.chains) is taken before Store.mu, which is not held
// while the daemon is asked; it is held while the file is written.
package layerstore
