// Package containerdstore reads images from, and writes them to, the image and
// content store of a containerd on this host, over its gRPC socket.
//
//	containerd:example.com/app:1                  in the default namespace
//	containerd://k8s.io/example.com/app:1         in the namespace k8s.io
//	containerd:example.com/app@sha256:...         by digest: the content store alone
//
// An image is looked up by the name as it is written, then by its full form
// (docker.io/library/...:latest). Everything is resolved through
// source.ResolveImage and verified as if it came over a network. Only what is in
// the content store can be read: layers that a lazy snapshotter never fetched, or
// that were discarded after unpacking, are not there.
//
// What is written is held by a lease until an image record refers to it, so that
// containerd's garbage collector takes neither a half-written image nor, through
// the labels on its manifests, any part of a complete one. A lease that nobody
// deletes ends after a day. Images are not unpacked.
//
// It is not a client for containers, snapshots or tasks.
//
// Locks: Store.mu guards the connection, pusher.mu the lease; both are leaves.
package containerdstore
