// Package e2e tests the whole product from outside: real programs, a real
// registry, real container runtimes, other kernels. See package harness for the
// surroundings and vm/vmtest for the guests.
//
// `make e2e` runs it; `go test -short` skips it.
package e2e
