// Package fserr is the one vocabulary of failure between the layers of a read.
//
// An [Error] says which operation on which object failed, of which [Kind], and
// why. Kinds are a closed list: the network, the chunk store and the index
// translate what they meet into a Kind once, and the protocol fronts (9P, FUSE)
// translate a Kind into an errno once, with [Errno]. Nothing in between needs to
// look at strings.
//
// The package knows no other package of this module.
package fserr
