package soci

import "cmp"

// Limits bounds what is read. A zero field has the value of [DefaultLimits].
type Limits struct {
	ZTOCBytes  int   // a zTOC, which is kept in memory; bytes
	IndexBytes int   // a SOCI index; bytes
	Entries    int   // files of one zTOC
	NameBytes  int   // the name of a file, and the target of a link; bytes
	XattrBytes int   // names and values of one file's extended attributes; bytes
	ChunkSize  int64 // files are cut into chunks of this many bytes
	Chunks     int   // chunks of one layer
	SpanBytes  int64 // a span in the blob, which is fetched as a whole; bytes
	Spans      int   // spans of one layer
}

// DefaultLimits are far above what real images need.
func DefaultLimits() Limits {
	return Limits{
		ZTOCBytes:  128 << 20,
		IndexBytes: 4 << 20,
		Entries:    4 << 20,
		NameBytes:  4096,
		XattrBytes: 256 << 10,
		ChunkSize:  1 << 20,
		Chunks:     4 << 20,
		SpanBytes:  64 << 20,
		Spans:      128 << 10,
	}
}

func (l Limits) effective() Limits {
	d := DefaultLimits()
	return Limits{
		ZTOCBytes:  cmp.Or(max(l.ZTOCBytes, 0), d.ZTOCBytes),
		IndexBytes: cmp.Or(max(l.IndexBytes, 0), d.IndexBytes),
		Entries:    cmp.Or(max(l.Entries, 0), d.Entries),
		NameBytes:  cmp.Or(max(l.NameBytes, 0), d.NameBytes),
		XattrBytes: cmp.Or(max(l.XattrBytes, 0), d.XattrBytes),
		ChunkSize:  cmp.Or(max(l.ChunkSize, 0), d.ChunkSize),
		Chunks:     cmp.Or(max(l.Chunks, 0), d.Chunks),
		SpanBytes:  cmp.Or(max(l.SpanBytes, 0), d.SpanBytes),
		Spans:      cmp.Or(max(l.Spans, 0), d.Spans),
	}
}
