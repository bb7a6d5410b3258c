// Package conformance holds the tests that judge the product by others, and
// others by the product: the test suites of the reference libraries run on our
// code, and our blobs are read by theirs.
//
// It is a module of its own, for those libraries bring more dependencies than the
// product has. `make conformance` runs it.
package conformance
