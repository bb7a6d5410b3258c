// Package registry reads and writes images in OCI and docker registries.
//
// # The way of a range
//
// [Registry.Blob] makes a blob of a descriptor without asking anybody. A read
// looks up the hosts of the reference (package hosts: mirrors in order, then
// the registry itself), and asks them one after the other for one byte range:
//
//	ReadRange -> run (hosts, rounds, backoff) -> fill (resume where it broke)
//	          -> once (one request, checked) -> exchange (credentials, redirects)
//
// What a host answers is checked before a byte is used: the status, the
// Content-Range, the length. A host that fails is passed over for the next; when
// all have failed and one of the failures may pass, the round is repeated after
// a growing pause or after what Retry-After asks for, within the deadline of the
// context. A body that breaks is continued from where it broke. A host from
// which no byte comes for [Options.StallTimeout] counts as broken.
//
// Hosts that ignore Range are read through when the wanted part lies near the
// beginning, and remembered.
//
// Several ranges at once ([source.MultiRanger]) are asked for with one request and
// taken from one answer only if it has exactly them, in their order; everything else
// is an error, and the ranges are then asked for one by one. Whether a host knows such
// requests is learned from the config of an image, which is small: who does not answers
// with the whole of what was asked for.
//
// # Redirects
//
// Registries send blob requests on to storage. The address is kept per host,
// repository and blob, for all who read it, and used until it expires by what it
// says of itself, or the storage refuses it; then it is asked for again.
//
// # What is learned of hosts
//
// Of each host, storage included, the registry learns how long an answer takes on
// a connection that is there, and how fast bytes come ([source.Coster]). A request
// that is not answered for longer than nineteen of twenty were gets a second one
// beside it, and whichever is answered first counts. A body that takes several times
// as long as the host's rate gives reason for is ended, and the rest asked for anew
// from where it came. Both together are at most one for twenty answers. A host that says that it is asked too much gets half as many
// requests at a time, and one more for each round of them that it answered.
//
// # Credentials
//
// Credentials come from a [credentials.Source], by host and repository, and go only
// to the host they are for: not to a mirror (which has its own), not to where a
// redirect leads, not to an upload location elsewhere, and never because an address
// holds some. When a host refuses one, the next candidate is tried, and the one that
// was taken is remembered for the repository. Client certificates, configured header
// fields and unchecked certificates follow the same rule.
//
// A host may name a token server elsewhere, which is then shown the credential for
// this host, as docker does it: who could send us there could have passed it on. The
// server must be reached by https unless the host itself is not, must not be an
// address of this machine or link unless the host is, and has none of the host's
// certificates or header fields.
//
// Tokens are kept per host, repository and right. When three quarters of a token's
// life are over, the next one is fetched beside the requests that go on with it. What
// a host asks for is learned with its first answer, so that the first request to
// another repository of it goes to the token server right away. Errors never contain
// the query of an address, where signatures are.
//
// # What it is not
//
// Not a cache and not a scheduler: the number of requests at a time is the
// caller's choice, but for hosts that refuse them. Ranges are not verified here,
// only compared in length and place; see source.ReadVerified.
//
// Locks: all are leaves, those of Registry, endpoint, session, blob, locations,
// links and link; none is held during I/O, and none is taken while another is held.
package registry
