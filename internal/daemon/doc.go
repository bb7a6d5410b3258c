// Package daemon wires the parts of Nineply together. It is the only package
// that sees all of them, and has no logic of its own beyond translation:
//
//	registry, layouts → chunkstore ← fetch ← image ← 9P sessions
//	                                          ↑
//	            control API: nineply command, snapshotter → keeper → mounts
//
// [Run] builds everything bottom up, serves until its context ends, and takes
// everything down in the opposite order. Stopping deletes and unmounts nothing.
package daemon
