// Package corpus makes the same image again with everybody's layer writers: the
// reference libraries of the lazy formats, the compressors that know none of
// them, and the command lines of Debian. The results are images in an OCI
// layout, one tag for each writer, and judge the product's readers.
//
// A layer of the source is decompressed once and given to each [Writer] as a
// file; config and manifest are those of the source but for the layers. The same
// source gives the same layout every time, as far as the writers do.
package corpus
