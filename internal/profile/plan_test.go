package profile_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/profile"
)

func TestResolve(t *testing.T) {
	v := packed("a", 10, 4, 1000, 50)
	p := merged(t, run(v, 9, 2, 3, 30))
	rechunked := unpacked("u", 40, 100)
	u := merged(t, run(rechunked, 5, 6, 20))
	holes := unpacked("u", 40, 100)
	for i, c := range holes.Chunks.(table) {
		if i == 6 {
			c.Hole = true
			holes.Chunks.(table)[i] = c
		}
	}
	renamed := packed("a", 10, 4, 1000, 0)
	renamed.Digest = digestOf("another blob of the same chunks")
	tests := []struct {
		name string
		p    *profile.Profile
		view profile.View
		want []uint32
	}{
		{"the same index", p, v, []uint32{9, 2, 3, 30}},
		{"the same chunks in another blob", p, renamed, []uint32{9, 2, 3, 30}},
		{"nothing in common", p, packed("b", 10, 4, 1000, 0), nil},
		{"larger chunks", u, unpacked("u", 10, 400), []uint32{1, 5}},
		{"smaller chunks", u, unpacked("u", 100, 40), []uint32{12, 13, 14, 15, 16, 17, 50, 51, 52}},
		{"a hole by now", u, holes, []uint32{5, 20}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, chunks(tt.p, tt.view)); diff != "" {
				t.Errorf("chunks (-want +got):\n%s", diff)
			}
		})
	}
}

// TestResolveBehindHoles looks for a chunk that reaches over the place of holes.
func TestResolveBehindHoles(t *testing.T) {
	v := unpacked("u", 8, 100)
	p := merged(t, run(v, 5))
	var tab table
	tab = append(tab, estargz.Chunk{Digest: digestOf("x"), Size: 550, Member: 0})
	for range 3 {
		tab = append(tab, estargz.Chunk{Hole: true, Size: 10, Member: 500})
	}
	tab = append(tab, estargz.Chunk{Digest: digestOf("y"), Size: 50, Member: 550})
	v.Chunks = tab
	if diff := cmp.Diff([]uint32{0, 4}, chunks(p, v)); diff != "" {
		t.Errorf("chunks (-want +got):\n%s", diff)
	}
}

func wants(view int, chunks ...uint32) []profile.Want {
	var out []profile.Want
	for _, c := range chunks {
		out = append(out, profile.Want{View: view, Chunk: c})
	}
	return out
}

func TestPlan(t *testing.T) {
	v := packed("a", 1000, 1, 1000, 0)
	even := func(from, n, step uint32) []uint32 {
		var out []uint32
		for i := range n {
			out = append(out, from+i*step)
		}
		return out
	}
	tests := []struct {
		name  string
		wants []profile.Want
		cost  profile.Cost
		want  []profile.Request
	}{
		{"nothing", nil, profile.Cost{}, nil},
		{"neighbours, in any order", wants(0, 5, 4, 6), profile.Cost{}, []profile.Request{{Lo: 4000, Hi: 7000, Spans: []profile.Span{{4, 7}}}}},
		{"a chunk twice, one that is not there", wants(0, 5, 5, 5000), profile.Cost{}, []profile.Request{{Lo: 5000, Hi: 6000, Spans: []profile.Span{{5, 6}}}}},
		{"the first wanted comes first", wants(0, 900, 4), profile.Cost{}, []profile.Request{
			{Lo: 900000, Hi: 901000, Spans: []profile.Span{{900, 901}}}, {Lo: 4000, Hi: 5000, Spans: []profile.Span{{4, 5}}},
		}},
		{"a small gap is worth a request", wants(0, append(even(0, 20, 1), even(21, 20, 1)...)...), profile.Cost{}, []profile.Request{
			{Lo: 0, Hi: 41000, Spans: []profile.Span{{0, 20}, {21, 41}}},
		}},
		{"unless it is too much of the whole", wants(0, 4, 6), profile.Cost{}, []profile.Request{
			{Lo: 4000, Hi: 5000, Spans: []profile.Span{{4, 5}}}, {Lo: 6000, Hi: 7000, Spans: []profile.Span{{6, 7}}},
		}},
		{"no waste at all", wants(0, append(even(0, 20, 1), even(21, 20, 1)...)...), profile.Cost{Waste: -1}, []profile.Request{
			{Lo: 0, Hi: 20000, Spans: []profile.Span{{0, 20}}}, {Lo: 21000, Hi: 41000, Spans: []profile.Span{{21, 41}}},
		}},
		{"not worth it while requests are few", wants(0, append(even(0, 20, 1), even(21, 20, 1)...)...), profile.Cost{Gap: 999}, []profile.Request{
			{Lo: 0, Hi: 20000, Spans: []profile.Span{{0, 20}}}, {Lo: 21000, Hi: 41000, Spans: []profile.Span{{21, 41}}},
		}},
		{"worth it when they are too many", wants(0, append(even(0, 20, 1), even(21, 20, 1)...)...), profile.Cost{Gap: 999, Requests: 1}, []profile.Request{
			{Lo: 0, Hi: 41000, Spans: []profile.Span{{0, 20}, {21, 41}}},
		}},
		{"the end is given up for the limit", wants(0, 1, 501, 2, 502), profile.Cost{Bytes: 3000}, []profile.Request{
			{Lo: 1000, Hi: 3000, Spans: []profile.Span{{1, 3}}}, {Lo: 501000, Hi: 502000, Spans: []profile.Span{{501, 502}}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := profile.Plan(tt.wants, []profile.View{v}, tt.cost)
			if diff := cmp.Diff(tt.want, got.Requests); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPlanLeavesOutWhatIsLocal(t *testing.T) {
	v := packed("a", 10, 2, 1000, 0)
	v.Local = func(i uint32) bool { return i != 7 }
	got := profile.Plan(wants(0, 1, 2, 7, 9), []profile.View{v}, profile.Cost{})
	want := profile.Schedule{Requests: []profile.Request{{Lo: 3000, Hi: 4000, Spans: []profile.Span{{7, 8}}}}, Chunks: 1, Wanted: 1000, Bytes: 1000}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPlanHolds checks on random layers what every plan has to keep.
func TestPlanHolds(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		views := []profile.View{
			packed("a", 1+rng.IntN(300), 1+rng.IntN(4), 1+rng.Int64N(100_000), rng.Int64N(5000)),
			unpacked("b", 1+rng.IntN(300), 1+rng.Int64N(50_000)),
		}
		if span := 1 + rng.Int64N(200_000); seed%2 == 0 { // reached through checkpoints
			views[1].Extent = func(c *estargz.Chunk) (lo, hi int64) {
				return c.Member / span * span, (c.Member + c.Size + span - 1) / span * span
			}
		}
		local := map[profile.Want]bool{}
		for i := range views {
			views[i].Local = func(c uint32) bool { return local[profile.Want{View: i, Chunk: c}] }
		}
		var asked []profile.Want
		for range rng.IntN(400) {
			w := profile.Want{View: rng.IntN(2)}
			w.Chunk = uint32(rng.IntN(views[w.View].Chunks.NumChunks()))
			asked = append(asked, w)
			if rng.IntN(5) == 0 {
				local[w] = true
			}
		}
		cost := profile.Cost{Requests: 1 + rng.IntN(20)}
		checkPlan(t, profile.Plan(asked, views, cost), asked, views, local)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func checkPlan(t *testing.T, got profile.Schedule, asked []profile.Want, views []profile.View, local map[profile.Want]bool) {
	t.Helper()
	covered := map[profile.Want]int{}
	var bytes int64
	for n, r := range got.Requests {
		bytes += r.Hi - r.Lo
		for _, sp := range r.Spans {
			for i := sp.First; i < sp.End; i++ {
				covered[profile.Want{View: r.View, Chunk: i}]++
				c, _ := views[r.View].Chunks.Chunk(i)
				lo, hi := c.Member, c.Member+c.MemberSize
				if f := views[r.View].Extent; f != nil {
					lo, hi = f(&c)
				}
				if lo < r.Lo || hi > r.Hi {
					t.Errorf("request %d of [%d, %d) does not bring chunk %d", n, r.Lo, r.Hi, i)
				}
			}
		}
		for _, o := range got.Requests[:n] {
			if o.View == r.View && o.Lo < r.Hi && r.Lo < o.Hi {
				t.Errorf("requests [%d, %d) and [%d, %d) overlap", o.Lo, o.Hi, r.Lo, r.Hi)
			}
		}
	}
	if bytes != got.Bytes || len(covered) != got.Chunks {
		t.Errorf("%d bytes and %d chunks, said to be %d and %d", bytes, len(covered), got.Bytes, got.Chunks)
	}
	if got.Bytes > got.Wanted+got.Wanted/10 {
		t.Errorf("%d bytes for %d", got.Bytes, got.Wanted)
	}
	unique := map[profile.Want]bool{}
	for _, w := range asked {
		unique[w] = true
	}
	for w := range unique {
		if n := covered[w]; !local[w] && n != 1 || local[w] && n != 0 {
			t.Errorf("chunk %v (local %v) is covered %d times", w, local[w], n)
		}
		delete(covered, w)
	}
	if len(covered) > 0 {
		t.Errorf("covers %v, which nobody asked for", covered)
	}
	checkOrder(t, got, asked)
}

// checkOrder holds the order of requests against that of the chunks.
func checkOrder(t *testing.T, got profile.Schedule, asked []profile.Want) {
	t.Helper()
	last := -1
	for n, r := range got.Requests {
		first := slices.IndexFunc(asked, func(w profile.Want) bool {
			return w.View == r.View && slices.ContainsFunc(r.Spans, func(s profile.Span) bool { return w.Chunk >= s.First && w.Chunk < s.End })
		})
		if first <= last {
			t.Errorf("request %d brings chunk %d of those asked for, the one before it chunk %d", n, first, last)
		}
		last = first
	}
}

func BenchmarkPlan(b *testing.B) {
	v := packed("a", 100_000, 1, 20_000, 0)
	rng := rand.New(rand.NewPCG(1, 1))
	var touches []uint32
	for range 3000 {
		at := uint32(rng.IntN(99_000))
		for k := range uint32(rng.IntN(20)) {
			touches = append(touches, at+k)
		}
	}
	p := merged(b, run(v, touches...))
	views := []profile.View{v}
	b.ReportAllocs()
	for b.Loop() {
		profile.Plan(p.Resolve(views), views, profile.Cost{})
	}
}
