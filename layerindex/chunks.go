package layerindex

import (
	"encoding/binary"
	"math"

	"github.com/nineply/nineply/estargz"
)

// NoChunk is the number of no chunk.
const NoChunk uint32 = math.MaxUint32

func (x *Index) chunkRecord(i uint32) *[chunkSize]byte {
	return (*[chunkSize]byte)(x.chunks[uint64(i)*chunkSize:])
}

// Chunk returns chunk i of a layer index. Chunks are numbered in blob order:
// Member does not decrease, and Inner ascends within a member. A hole is a chunk
// of its own, at the place where the data around it ends. ok is false if there is
// no chunk i.
func (x *Index) Chunk(i uint32) (c estargz.Chunk, ok bool) {
	if i >= x.numChunks {
		return estargz.Chunk{}, false
	}
	r := decodeChunk(x.chunkRecord(i))
	return estargz.Chunk{
		Digest: r.digest, Offset: r.offset, Size: r.length(),
		Member: r.member, MemberSize: int64(r.stored), Inner: int64(r.inner), Hole: r.size == 0,
	}, true
}

// ChunkNode returns the node of the layer index whose content chunk i is a part
// of; 0 if there is no chunk i.
func (x *Index) ChunkNode(i uint32) Ino {
	if i >= x.numChunks {
		return 0
	}
	return Ino(binary.LittleEndian.Uint32(x.chunkRecord(i)[60:]))
}

// FindChunk returns the number of the chunk that holds byte off of the file with
// content c. It is asked of the layer index c.Layer refers to. It is NoChunk if
// off is behind the end, or c is not of this index.
func (x *Index) FindChunk(c Content, off uint64) uint32 {
	end := uint64(c.First) + uint64(c.Count)
	if off >= c.Size || c.Count == 0 || end > uint64(x.numChunks) {
		return NoChunk
	}
	lo, hi := c.First, uint32(end)
	for hi-lo > 1 {
		mid := lo + (hi-lo)/2
		if binary.LittleEndian.Uint64(x.chunkRecord(mid)[32:]) <= off {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// ChunksFrom returns the number of the first chunk whose Member is at least
// member; NumChunks if there is none.
func (x *Index) ChunksFrom(member int64) uint32 {
	lo, hi := uint32(0), x.numChunks
	for lo < hi {
		mid := lo + (hi-lo)/2
		if int64(binary.LittleEndian.Uint64(x.chunkRecord(mid)[40:])) < member {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}
