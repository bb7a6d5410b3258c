// Package control is the daemon's API: HTTP and JSON on a unix socket.
//
// The types here are what travels, [Client] calls, and [NewHandler] turns a
// [Service] into an http.Handler. Errors keep their fserr kind across the socket.
// The nineply command and the snapshotter use the client; the daemon implements
// the service. Files are never read through this API: they are read over 9P.
//
// The package knows no other package of this module but fserr.
package control
