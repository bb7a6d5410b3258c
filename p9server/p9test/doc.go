// Package p9test holds what tests of 9P2000.L servers need: an in-memory tree,
// a client that speaks in lines of text, and a conformance suite.
//
// Messages are written as text, such as
//
//	Twalk tag=1 fid=0 newfid=1 wname=["etc" "passwd"]
//	Rwalk tag=1 wqid=[(80.1.2) (0.1.3)]
//
// and turned into bytes by a table of the protocol's fields that shares no code
// with the server. The suite's transcripts (testdata/*.txt) are lists of such
// lines, sent ("> ") and expected ("< "). [Run] plays them against any
// implementation that can be put in front of a [p9server.Exporter]: the server
// itself, or a proxy behind which it stands.
//
// The package is for tests only, and is no client for applications.
package p9test
