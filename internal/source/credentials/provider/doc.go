// Package provider runs kubelet's credential provider plug-ins: the programs that
// exchange a node's identity in a cloud for a registry's password.
//
//	CredentialProviderConfig -> plug-ins whose matchImages fit -> request on stdin,
//	response on stdout -> credentials
//
// The file is the one that kubelet has. A plug-in is run when a registry asks, and
// its answer is used for as long as it says; then it is run again, so that credentials
// are renewed for as long as an image is in use. Programs that want a service
// account's token are not run: there is no pod to ask for.
package provider
