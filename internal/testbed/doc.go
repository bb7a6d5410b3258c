// Package testbed starts what a container needs to be pulled and run, each part
// as a process with directories and sockets of its own: Debian's registry, the
// daemon, containerd. Demonstrations and benchmarks stand on it.
//
// A [Bed] is a temporary directory and what runs in it. [Bed.Close] ends
// everything and leaves nothing behind. A [Recorder] before a registry writes down
// each request and its answer's size.
package testbed
