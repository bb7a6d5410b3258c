package layerindex

// Bounds that the file format or Linux sets, whatever the Limits say.
const (
	maxNodes      = 4 << 20 // nodes of one index, layer or merged
	maxNameBytes  = 255
	maxLinkBytes  = 4095 // symlink target
	maxXattrName  = 255
	maxXattrValue = 64 << 10
	maxXattrList  = 64 << 10 // all names of one node with their ending zeros
	maxLayers     = 512
	maxSection    = 1<<32 - 1
	maxMember     = 1<<63 - 1<<32 // place of a chunk in a blob or tar: its end is an int64, too
	maxHops       = 40            // symbolic links followed in one name
	maxFollowed   = 64 << 20      // bytes of symlink targets walked for all names of a layer

	// An entry may make this many directories on average, and have so many components
	// in its name, and all of them so many more: a TOC of a few kilobytes can say the
	// longest names there are, over and over.
	maxDirsPerEntry  = 8
	maxFreeDirs      = 4096
	maxStepsPerEntry = 64
	maxFreeSteps     = 256 << 10
)

// Limits bounds what a Builder accepts. A field that is zero or negative has the
// value of [DefaultLimits].
type Limits struct {
	// Entries bounds the entries of the TOC, and the nodes made from them,
	// implied directories included.
	Entries int
	// PathBytes bounds a name as the TOC has it, NameBytes (at most 255) one
	// component of it, Depth the directories above a node.
	PathBytes, NameBytes, Depth int
	// ChunkSize bounds the uncompressed size of a chunk, bytes.
	ChunkSize int64
	// Inner bounds the offset of a chunk in its uncompressed member, bytes.
	Inner int64
}

// DefaultLimits are far above what real images contain.
func DefaultLimits() Limits {
	return Limits{
		Entries:   maxNodes,
		PathBytes: 4096,
		NameBytes: maxNameBytes,
		Depth:     1000,
		ChunkSize: 64 << 20,
		Inner:     256 << 20,
	}
}

// effective fills the gaps and clamps to what the format can hold.
func (l Limits) effective() Limits {
	d := DefaultLimits()
	return Limits{
		Entries:   int(bounded(int64(l.Entries), int64(d.Entries), maxNodes)),
		PathBytes: int(bounded(int64(l.PathBytes), int64(d.PathBytes), 1<<20)),
		NameBytes: int(bounded(int64(l.NameBytes), int64(d.NameBytes), maxNameBytes)),
		Depth:     int(bounded(int64(l.Depth), int64(d.Depth), 1<<20)),
		ChunkSize: bounded(l.ChunkSize, d.ChunkSize, 1<<31),
		Inner:     bounded(l.Inner, d.Inner, 1<<31),
	}
}

func bounded(v, fallback, most int64) int64 {
	if v <= 0 {
		v = fallback
	}
	return min(v, most)
}
