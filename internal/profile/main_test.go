package profile_test

import (
	"fmt"
	"sort"
	"testing"

	"go.uber.org/goleak"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/profile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table is a layer's chunk list.
type table []estargz.Chunk

func (t table) NumChunks() int { return len(t) }

func (t table) Chunk(i uint32) (estargz.Chunk, bool) {
	if int(i) >= len(t) {
		return estargz.Chunk{}, false
	}
	return t[i], true
}

func (t table) ChunksFrom(member int64) uint32 {
	return uint32(sort.Search(len(t), func(i int) bool { return t[i].Member >= member }))
}

// digestOf is the digest of a chunk with a name.
func digestOf(format string, args ...any) estargz.Digest {
	return estargz.Sum(fmt.Appendf(nil, format, args...))
}

// packed makes a layer of members of so many bytes, each with so many chunks of
// 100 bytes, and space between members.
func packed(name string, members, perMember int, size, space int64) profile.View {
	var t table
	for m := range members {
		for k := range perMember {
			t = append(t, estargz.Chunk{
				Digest: digestOf("%s/%d/%d", name, m, k), Size: 100,
				Member: int64(m) * (size + space), MemberSize: size, Inner: int64(k) * 100,
			})
		}
	}
	return profile.View{Layer: profile.Layer{Digest: digestOf("%s", name), Space: profile.Packed}, Chunks: t}
}

// unpacked makes a layer that is not compressed, of chunks of so many bytes.
func unpacked(name string, chunks int, size int64) profile.View {
	var t table
	for i := range chunks {
		t = append(t, estargz.Chunk{Digest: digestOf("%s/%d", name, i), Size: size, Member: int64(i) * size})
	}
	return profile.View{
		Layer: profile.Layer{Digest: digestOf("%s", name), Space: profile.Unpacked}, Chunks: t,
		Extent: func(c *estargz.Chunk) (lo, hi int64) { return c.Member, c.Member + c.Size },
	}
}

var manifest = digestOf("manifest")

// run reads the chunks of the only view, in order.
func run(view profile.View, chunks ...uint32) *profile.Run {
	var touches []profile.Touch
	for _, c := range chunks {
		touches = append(touches, profile.Touch{Chunk: c})
	}
	return profile.NewRun(manifest, []profile.View{view}, touches)
}

// merged is the profile of runs.
func merged(t testing.TB, runs ...*profile.Run) *profile.Profile {
	t.Helper()
	var p *profile.Profile
	for _, r := range runs {
		var err error
		if p, err = profile.Merge(p, r); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// chunks lists the chunks that a profile asks for of the only view.
func chunks(p *profile.Profile, view profile.View) []uint32 {
	var got []uint32
	for _, w := range p.Resolve([]profile.View{view}) {
		got = append(got, w.Chunk)
	}
	return got
}
