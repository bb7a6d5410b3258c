// Package demoimage makes the container image that shows, and in the tests
// judges, what the product does: a real Debian root with Python, and an
// application layer that holds one of every kind of file an image can have.
//
// [Build] makes a root with debootstrap from the archive that the machine's own
// apt uses, installs python3 in it, and writes three plain tar.gz layers (the
// base, what python3 changed, the application) as an OCI layout directory. The
// finished layout is kept in a cache directory and used again. [BuildSmall]
// makes the same application layer over a base of a few files in a moment,
// without root and without network. [Image.Push] copies an image to a registry.
//
// [Untar] is the judge: the same layers extracted by GNU tar with whiteouts
// applied. Package treesum, below this one, lists such a tree and any mount of
// the image for comparison.
//
// Layers are written here with archive/tar, and never with the product's own
// code, so that the two can disagree.
package demoimage
