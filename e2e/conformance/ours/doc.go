// Package ours shows the product's readers to the upstream test suites in the
// shapes that these expect: [Open] is the metadata reader of stargz-snapshotter,
// made of our TOC parser, layer index and member decoder, and [Compression] the
// codec of upstream's eStargz library.
//
// Nothing of upstream takes part in the reading, but that a TOC which is not in
// its blob comes from the suite.
package ours
