// Package credentials finds what a registry may be shown.
//
//	docker config, its helpers -> Kubernetes pull secrets -> kubelet's own pulls
//
// A [Source] is asked for one host and one repository, whenever the host wants new
// proof, and gives candidates, best first; [Chain] lines several up. Nothing is
// kept of an answer beyond the token that it was exchanged for, so that whatever
// changed behind a source counts from then on: a file is read again, a helper is run
// again, a secret is watched.
//
// A credential is filed under the host it is for, with its port, and perhaps under a
// part of the path. It is never given for another host: "example.com" is not
// "example.com:5000", and a mirror has the credentials of its own name. Only docker's
// hub has several names.
//
// Credentials print as nothing that is secret, whatever the verb, so that a log or an
// error which holds one by mistake tells nothing.
//
// Packages kube and cri below are the sources that need a connection.
//
// It sends nothing to a registry: package registry does, and decides where to.
package credentials
