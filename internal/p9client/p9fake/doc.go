// Package p9fake is a 9P2000.L server for tests of clients: it exports a
// directory of the host as it is, hard links, devices and extended attributes
// included, and can be made to misbehave: stop, hang, answer late, out of
// order, wrongly or not at all.
//
// It is written for clarity and for control, not for speed or safety; the
// product's server is another package. A [Server] survives its own death: after
// Stop, Start listens on the same address again, which is how tests kill and
// restart a daemon without a process.
package p9fake
