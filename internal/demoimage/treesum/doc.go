// Package treesum writes down everything a file tree shows to its readers, so
// that two trees can be compared to the last bit: a mount in a guest, a FUSE
// mount on the host, and the plain extraction of the same layers.
//
// [Walk] lists a tree as [Node] values sorted by path, [Write] and [Read] carry
// the list as text (one line per path, quoted, stable), and [Diff] names every
// difference. It reads with system calls only and links statically, so the
// small command e2e/treesum can do the listing inside a guest.
package treesum
