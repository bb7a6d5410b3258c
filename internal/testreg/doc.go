// Package testreg is a registry for tests: it holds images in memory, serves
// them over real HTTP on a loopback port, takes uploads, counts what was asked
// of it, and misbehaves on demand.
//
//	reg := testreg.New(t)
//	img := reg.AddImage("demo/app", "v1", testreg.Image{Layers: []testreg.Layer{{Data: blob}}})
//	reg.On(testreg.Match{Digest: img.Layers[0].Digest}, testreg.Status(503), testreg.ShortBody(10))
//	... read reg.Ref("demo/app", "v1") ...
//	reg.Count(testreg.Match{Digest: img.Layers[0].Digest})
//
// A [Fault] takes the place of one answer. Those given to [Registry.On] are used
// up one by one, in order, by the requests that match; after the last one the
// registry answers properly again.
//
// Options add what real registries have around them: tokens ([WithBearer]),
// basic authentication ([WithBasic]), TLS ([WithTLS]), and a separate storage
// host that blob requests are redirected to with an expiring signature
// ([WithRedirects]).
//
// It is not a registry to keep anything in, and only tests may import it.
//
// Locks: Registry.mu guards all state and is never held while a body is written
// or a fault runs.
package testreg
