// Package vm boots guests with kernels other than the host's, which have what
// the host kernel may lack: the 9p client, overlay over it, container runtimes.
//
// A [Guest] names a root directory of the host, a script and a few files.
// [RunUML] boots it under User-Mode Linux (about two seconds, one CPU),
// [RunQEMU] under QEMU without hardware virtualisation (about ten seconds,
// several CPUs, virtio devices). Both boot the same initramfs, whose first
// process (guestinit) mounts the root read-only under a tmpfs, runs the script
// and reports its output and exit status through a [Result].
//
// The guest's network is a namespace of its own with the host at
// [HostAddress]: it reaches exactly the services listed in [Guest.Services],
// each forwarded to a TCP or unix socket of the host, and nothing else. A
// script can also stop and ask the host with /run/nineply-guest/signal WORD,
// which calls [Guest.OnSignal].
//
// It needs root and the go command, which builds guestinit. For tests see
// vmtest.
package vm
