// Package vmtest boots the guests of package vm for tests: it keeps what a run
// needs in the test's directory, and skips the tests of machines that cannot
// boot guests, or fails them where guests are demanded.
//
// It is test infrastructure: nothing that is shipped imports it.
package vmtest
