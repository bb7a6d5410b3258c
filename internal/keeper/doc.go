// Package keeper is the process that holds kernel mounts so that the daemon
// need not: cmd/nineply-mount.
//
// A [Keeper] makes mounts (internal/mount) when asked over its control socket,
// HTTP with JSON on a Unix socket, and keeps serving them whatever happens to
// the daemon. What is mounted is written to a small state file; a keeper that
// is started again takes away what its predecessor left dead and mounts it
// anew, in the background, as long as it takes for the daemon to be there.
//
// [Client] is the other end of the control socket, [Run] the command line.
//
// The package knows nothing of images: an attach name is a string.
//
// Locks: Keeper.mu guards the table of mounts, and is not held while mounting,
// unmounting or writing the state file; stateMu orders the writes of that file
// and is taken before mu.
package keeper
