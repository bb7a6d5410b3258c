// Package netshape makes the loopback interface like a network: a TCP proxy that
// adds a round-trip time and shares a bandwidth.
//
// [Listen] starts a [Proxy] before an upstream address. Of each connection it
// carries both directions as byte streams, whatever they say; TLS passes through
// and pays for its own round trips.
//
//	read -> link (all connections, both directions) -> half a round trip -> write
//
// A segment, which is what one read brings, is stamped with the time at which it
// arrives at the other side: when the link has sent it, after all that came
// before, and half a round trip later. Requests on one connection, and connections
// beside each other, therefore overlap as they would on a network. A connection
// costs a round trip before its first byte can leave.
//
// What is on its way is bounded, for each direction of a connection by
// [Shape.Window] and for the link by a few milliseconds of it, so that a fast
// sender is held back and does not queue before others.
//
// # What it is not
//
// Not a model of TCP: nothing is lost, and the window is open from the start, so
// there is no slow start. Measured times are those of warm connections.
package netshape
