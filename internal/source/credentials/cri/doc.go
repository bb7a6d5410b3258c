// Package cri finds registry credentials in what kubelet tells a container runtime:
// the AuthConfig of its PullImage requests.
//
//	kubelet --image-service-endpoint -> Proxy -> containerd's CRI socket
//	                                      |
//	                                   Memory -> Credentials
//
// A [Proxy] passes every call on as it is, byte for byte, and looks only at the
// requests of PullImage, before they go on: a snapshotter is asked for the layers
// while the pull still runs. What such a request shows is kept in a [Memory] for the
// repository of its image at the registry of its image, or at the server that it names
// itself; for a time, and for so many repositories. A pull that fails takes what it
// brought with it.
//
// Nothing is kept on disk. Kubelet does not pull what is there already, so that after
// a restart, or when the time is over, the other sources have to know.
//
// The proxy gives whoever reaches its socket all that the runtime's socket gives. It
// is for root alone, as that is.
//
// Lock: Memory.mu is a leaf.
package cri
