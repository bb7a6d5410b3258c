// Package optimize writes an image again with what its start reads first in front
// of every layer, so that it is fetched ahead whoever reads the image lazily: with
// no profile, and not by this program alone.
//
// # What passes through
//
//	a run, a profile, a list  ->  files of each layer, in order   records
//	files, image              ->  the order of one layer          Order
//	order, image              ->  the new image                   convert
//
// What is read is found out by running the image: it is mounted lazily through a
// daemon, with an overlay on top for what the container writes, and an OCI runtime
// (runc or crun) starts the container on that. The daemon notes the reads as it
// does for every image (internal/profile). It is the one that runs, if the image is
// not in use there, or one of its own within this process, in a directory that is
// removed afterwards. A profile that a running daemon has is put aside for the run
// and put back.
//
// # What it is not
//
// It knows no format and no TOC: which files there are, and what they become, are
// the daemon's and internal/convert's to say.
package optimize
