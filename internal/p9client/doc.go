// Package p9client is a 9P2000.L client for read-only trees.
//
// A [Client] owns one connection. Any number of goroutines call it at once:
// each request takes a tag (their number is bounded by [Options.MaxInflight]),
// its frame joins whatever other frames wait to be written, and whoever finds
// no write going on writes them all. One goroutine reads replies and hands each
// to its caller; file content goes from the socket straight into the caller's
// buffer. A second goroutine sends what nobody waits for: Tclunk of files that
// were closed, and Tflush of requests whose context ended.
//
// A [File] is a fid with its qid. Requests that depend on each other (walk,
// then getattr; walk, open, then read) are sent together without waiting, as
// [File.WalkStat] and [File.WalkOpenRead] do. A server that handles requests
// out of order may then refuse the later ones, so these are asked again on
// their own when the earlier one turns out to have succeeded.
//
// Errors: what the server answers is a bare [syscall.Errno]; an ended context
// is its Err(); a connection that is gone matches [ErrLost], and so does one
// that was dropped because the server broke the protocol ([ErrProtocol]).
// After ErrLost the Client is of no more use and its Files are void. The
// package does not reconnect: internal/mount does.
//
// The server is not trusted: every length and count is checked against the
// negotiated message size and the caller's buffer before memory is touched.
//
// Lock order: none of the client's locks is taken while another is held.
package p9client
