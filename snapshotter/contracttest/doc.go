// Package contracttest is a test suite for containerd remote snapshotters.
//
// containerd's own suite (core/snapshots/testsuite) tests what every snapshotter
// does. This one tests what a remote snapshotter adds: what Prepare answers for a
// target that can be served, what the metadata store of containerd looks for
// afterwards, that layers are shared by namespaces, and that all of it holds over
// restarts and in concurrent pulls. It uses the public interface only, so the
// snapshotter may be in the same process or behind a socket.
//
// A test gives [Run] a function that makes a [Subject]: how to open the
// snapshotter, and an image it can serve. The suite needs root where it mounts.
package contracttest
