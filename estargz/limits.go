package estargz

import "cmp"

// Limits bounds what is accepted of a blob. A zero field stands for its value in
// [DefaultLimits].
type Limits struct {
	TOCCompressed  int64 // bytes of the TOC's gzip member
	TOCSize        int64 // bytes of the TOC's JSON
	Entries        int   // TOC entries, chunks included
	NameBytes      int   // bytes of an entry's name
	ComponentBytes int   // bytes between two slashes of a name
	Depth          int   // components of a name
	LinkBytes      int   // bytes of a link target
	ChunkSize      int64 // uncompressed bytes of a chunk
	InnerOffset    int64 // uncompressed bytes of a member before a chunk
	XattrBytes     int   // bytes of an entry's attribute names and values
}

// DefaultLimits are generous for real images and keep a hostile one cheap: what
// Linux can mount for names, attributes and links; 64 MiB for what has to be held
// in memory; 256 MiB for what has to be decompressed.
func DefaultLimits() Limits {
	return Limits{
		TOCCompressed:  64 << 20,
		TOCSize:        256 << 20,
		Entries:        4_000_000,
		NameBytes:      4096,
		ComponentBytes: 255,
		Depth:          1000,
		LinkBytes:      4096,
		ChunkSize:      64 << 20,
		InnerOffset:    256 << 20,
		XattrBytes:     64 << 10,
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	return Limits{
		TOCCompressed:  cmp.Or(l.TOCCompressed, d.TOCCompressed),
		TOCSize:        cmp.Or(l.TOCSize, d.TOCSize),
		Entries:        cmp.Or(l.Entries, d.Entries),
		NameBytes:      cmp.Or(l.NameBytes, d.NameBytes),
		ComponentBytes: cmp.Or(l.ComponentBytes, d.ComponentBytes),
		Depth:          cmp.Or(l.Depth, d.Depth),
		LinkBytes:      cmp.Or(l.LinkBytes, d.LinkBytes),
		ChunkSize:      cmp.Or(l.ChunkSize, d.ChunkSize),
		InnerOffset:    cmp.Or(l.InnerOffset, d.InnerOffset),
		XattrBytes:     cmp.Or(l.XattrBytes, d.XattrBytes),
	}
}
