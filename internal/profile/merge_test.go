package profile_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/profile"
)

func TestMerge(t *testing.T) {
	v := packed("a", 64, 1, 1000, 0)
	tests := []struct {
		name string
		runs [][]uint32
		want []uint32 // that are fetched in advance
		kept int      // entries
		full uint32   // runs
	}{
		{"one run is kept as it was", [][]uint32{{5, 1, 9}}, []uint32{5, 1, 9}, 3, 1},
		{"the median place orders", [][]uint32{{1, 2, 3, 4}, {4, 1, 2, 3}, {1, 2, 3, 4}}, []uint32{1, 2, 3, 4}, 4, 3},
		{"a place in between", [][]uint32{{1, 2, 3}, {1, 9, 2, 3}}, []uint32{1, 9, 2, 3}, 4, 2},
		{"rare reads wait", [][]uint32{{1, 2, 7}, {1, 2}, {1, 2}}, []uint32{1, 2}, 3, 3},
		{"and are dropped", [][]uint32{{1, 2, 7}, {1, 2}, {1, 2}, {1, 2}}, []uint32{1, 2}, 2, 4},
		{"new reads of few runs wait too", [][]uint32{{1, 2}, {1, 2}, {1, 2, 8}}, []uint32{1, 2}, 3, 3},
		{"a run of little drops nothing", [][]uint32{{1, 2, 3, 4}, {1}, {1}}, []uint32{1, 2, 3, 4}, 4, 1},
		{"unless it is the habit", [][]uint32{{1, 2, 3, 4}, {1}, {1}, {1}, {1}, {1}, {1}, {1}}, []uint32{1}, 1, 4},
		{"another program takes over", [][]uint32{{1, 2}, {8, 9}, {8, 9}, {8, 9}, {8, 9}, {8, 9}, {8, 9}, {8, 9}, {8, 9}}, []uint32{8, 9}, 2, 8},
		{"a chunk twice counts once", [][]uint32{{3, 3, 1}}, []uint32{3, 1}, 2, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var runs []*profile.Run
			for _, r := range tt.runs {
				runs = append(runs, run(v, r...))
			}
			p := merged(t, runs...)
			if diff := cmp.Diff(tt.want, chunks(p, v)); diff != "" {
				t.Errorf("chunks (-want +got):\n%s", diff)
			}
			if len(p.Entries) != tt.kept || p.Runs != tt.full {
				t.Errorf("%d entries of %d runs, want %d of %d", len(p.Entries), p.Runs, tt.kept, tt.full)
			}
		})
	}
}

func TestMergeLeavesTheOldProfile(t *testing.T) {
	v := packed("a", 8, 1, 1000, 0)
	old := merged(t, run(v, 1, 2, 3))
	before, err := profile.Encode(old)
	if err != nil {
		t.Fatal(err)
	}
	merged(t, run(v, 1), run(v, 3, 2, 1)) // unrelated
	if _, err := profile.Merge(old, run(v, 3, 2, 5)); err != nil {
		t.Fatal(err)
	}
	after, err := profile.Encode(old)
	if err != nil || !slices.Equal(before, after) {
		t.Errorf("the profile that was merged into has changed (%v)", err)
	}
}

func TestMergeRefuses(t *testing.T) {
	v := packed("a", 8, 1, 1000, 0)
	p := merged(t, run(v, 1))
	other := run(v, 1)
	other.Manifest = digestOf("another image")
	for name, r := range map[string]*profile.Run{"nothing read": run(v), "another image": other} {
		if _, err := profile.Merge(p, r); !fserr.Is(err, fserr.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}

// TestMergeOfLayersThatChangeSpace has a blob read by another kind of index.
func TestMergeOfLayersThatChangeSpace(t *testing.T) {
	v, u := packed("a", 8, 1, 1000, 0), unpacked("a", 8, 100)
	p := merged(t, run(v, 1, 2), run(u, 4, 5))
	if len(p.Layers) != 2 {
		t.Fatalf("%d layers, want one for each space", len(p.Layers))
	}
	for range 8 {
		p = merged(t, run(v, 1, 2))
	}
	p, err := profile.Merge(p, run(u, 4, 5))
	for range 8 {
		if err != nil {
			t.Fatal(err)
		}
		p, err = profile.Merge(p, run(u, 4, 5))
	}
	if len(p.Layers) != 1 || p.Layers[0].Space != profile.Unpacked {
		t.Errorf("layers %v, want the one that is still read", p.Layers)
	}
}

func TestMergeIsBounded(t *testing.T) {
	v := packed("a", profile.MaxEntries+100, 1, 1000, 0)
	touches := make([]profile.Touch, profile.MaxEntries+100)
	for i := range touches {
		touches[i] = profile.Touch{Chunk: uint32(i), At: time.Duration(i) * time.Microsecond}
	}
	r := profile.NewRun(manifest, []profile.View{v}, touches)
	p := merged(t, r)
	if len(p.Entries) != profile.MaxEntries {
		t.Errorf("%d entries, want %d", len(p.Entries), profile.MaxEntries)
	}
}
