// Package sourcetest is the suite that every source of images has to pass: the
// contracts written at source.Repository, source.Blob, source.Fetcher and
// source.Pusher, tried on a backend that can be written to and read from.
//
// A backend's test calls [Run] with a function that opens an empty one. Only
// tests may import this package.
package sourcetest
