// Package idmap shifts the owners of files for user namespaces.
//
// A [Map] says which IDs of a container are which IDs of the host, as user
// namespaces do. It travels as text: in containerd's snapshot labels and, behind
// a question mark, in the name a client attaches to ([Maps.String], [Cut]):
//
//	chain/sha256:…?uidmap=0:100000:65536&gidmap=0:100000:65536
//
// Whoever answers for attributes then gives the host's ID of each owner, so that
// the files of one image have the right owners in any user namespace, and not one
// of them is copied for that. It works over 9P and FUSE alike, and on kernels
// whose file systems know nothing of mapped mounts.
//
// The package is a leaf: it reads text and does arithmetic. It neither mounts nor
// changes owners.
package idmap
