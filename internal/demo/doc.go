// Package demo shows the main job on one machine: a container starts from an
// image that was never pulled.
//
// [Run] makes a real image (internal/demoimage), puts it into Debian's registry
// on the loopback interface, once as it is and once converted, starts a daemon
// and a containerd of its own in a temporary directory, and starts the container
// twice with internal/coldstart: after a full pull with overlayfs, and lazily.
// What is fetched is counted by a recorder in front of the registry
// (internal/testbed). Nothing is left behind but the cached image.
package demo
