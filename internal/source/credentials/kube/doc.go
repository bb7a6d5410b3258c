// Package kube finds registry credentials in the pull secrets of a Kubernetes
// cluster: the secrets of type kubernetes.io/dockerconfigjson.
//
//	kubeconfig or service account -> list -> watch -> keyrings -> Credentials
//
// The list is made when the first credential is asked for, and watched from then on,
// so that a renewed secret counts at once. While the API server is away what was last
// known is used; an expired watch leads to a new list, a failure to another try after
// a growing pause. The kubeconfig, its certificates and tokens are read again at each
// connection, token files at each request.
//
// It reads what it may read, which the operator decides by the role of the account:
// all namespaces, or those that [Options.Namespaces] names. It does not know which pod
// an image is for, so that any of these secrets may be tried for an image of the host
// and path that it names.
//
// Everything is bounded: namespaces, secrets, the bytes of an answer. A secret that
// cannot be understood is passed over.
//
// Lock: Source.mu is a leaf, and is not held during I/O.
package kube
