package p9server

// ErrnoOf is for the test that writes the table of errnos.
var ErrnoOf = errnoOf
