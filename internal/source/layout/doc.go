// Package layout reads and writes OCI image layouts: directories with an
// index.json and content-addressed blobs, and tar files of them.
//
//	oci:/path/to/layout            the only image, or the tag "latest"
//	oci:/path/to/layout:tag        by org.opencontainers.image.ref.name
//	oci:/path/to/layout@sha256:... by digest
//	oci-archive:/path/to/file.tar:tag
//
// Everything is resolved through source.ResolveImage, as for a registry: a
// directory is trusted no more than a network. Files are opened below the
// layout's root only, so that a symbolic link in it leads nowhere else.
//
// Writing is safe against a crash and against another writer: blobs are written
// beside their place and renamed, index.json is replaced as a whole under a lock
// on the directory. An archive is written beside its place in one pass, blob by
// blob, and renamed when it is complete; it keeps what the one in its place had
// in it, but two writers of one archive do not see each other: the last one wins.
//
// It does not collect blobs that nothing refers to.
//
// Locks: Layout.mu guards the table of scanned archives and is a leaf; the lock
// on the directory is taken without holding any other.
package layout
