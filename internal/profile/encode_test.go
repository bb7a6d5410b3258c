package profile_test

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/profile"
)

var update = flag.Bool("update", false, "write the golden file anew")

func encode(t testing.TB, p *profile.Profile) []byte {
	t.Helper()
	data, err := profile.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// sample is a profile with everything in it.
func sample(t testing.TB) *profile.Profile {
	views := []profile.View{packed("a", 50, 4, 5000, 100), unpacked("b", 50, 4096)}
	rng := rand.New(rand.NewPCG(1, 2))
	var runs []*profile.Run
	for range 7 {
		var touches []profile.Touch
		for i := range 120 {
			layer := i % 2
			touches = append(touches, profile.Touch{Layer: layer, Chunk: uint32(rng.IntN(50)), At: time.Duration(i) * 3 * time.Millisecond})
		}
		runs = append(runs, profile.NewRun(manifest, views, touches))
	}
	return merged(t, runs...)
}

func TestEncodeDecode(t *testing.T) {
	v := packed("a", 50, 4, 5000, 100)
	for name, p := range map[string]*profile.Profile{
		"sample": sample(t), "one chunk": merged(t, run(v, 3)), "partial": merged(t, run(v, 3, 4, 5, 6), run(v, 3)),
	} {
		data := encode(t, p)
		got, err := profile.Decode(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(p, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if !bytes.Equal(data, encode(t, got)) {
			t.Errorf("%s: the same profile gives other bytes", name)
		}
	}
}

// TestGolden reads a profile that an earlier version of this package wrote.
func TestGolden(t *testing.T) {
	const path = "testdata/sample.profile"
	if *update {
		if err := os.WriteFile(path, encode(t, sample(t)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := profile.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(t), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestEncodeFits has more entries than a file may have bytes for.
func TestEncodeFits(t *testing.T) {
	const many = 80_000
	v := packed("a", many, 1, 1000, 7)
	rng := rand.New(rand.NewPCG(3, 4))
	var runs []*profile.Run
	for range 2 {
		var touches []profile.Touch
		for _, i := range rng.Perm(many) {
			touches = append(touches, profile.Touch{Chunk: uint32(i)})
		}
		runs = append(runs, profile.NewRun(manifest, []profile.View{v}, touches))
	}
	p := merged(t, runs...)
	data := encode(t, p)
	if len(data) > profile.MaxSize {
		t.Fatalf("%d bytes", len(data))
	}
	got, err := profile.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d entries in %d bytes", len(got.Entries), len(p.Entries), len(data))
	if n := len(got.Entries); n < 20_000 {
		t.Errorf("only %d entries fit", n)
	} else if !slices.Equal(p.Entries[:n], got.Entries) {
		t.Error("what fits is not the beginning of the profile")
	}
}

func TestDecodeRefusesDamage(t *testing.T) {
	data := encode(t, sample(t))
	for i := range data {
		for _, bit := range []byte{1, 0x80} {
			bad := bytes.Clone(data)
			bad[i] ^= bit
			if _, err := profile.Decode(bad); !fserr.Is(err, fserr.Corrupt) && !fserr.Is(err, fserr.Unsupported) {
				t.Fatalf("byte %d changed: %v", i, err)
			}
		}
	}
	for n := range data {
		if _, err := profile.Decode(data[:n]); !fserr.Is(err, fserr.Corrupt) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := profile.Decode(make([]byte, profile.MaxSize+1)); !fserr.Is(err, fserr.Corrupt) {
		t.Errorf("too large: %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, change := range map[string]func(p *profile.Profile){
		"no runs":            func(p *profile.Profile) { p.Runs = 0 },
		"an entry twice":     func(p *profile.Profile) { p.Entries[1] = p.Entries[0] },
		"a layer twice":      func(p *profile.Profile) { p.Layers[1] = p.Layers[0] },
		"an unknown space":   func(p *profile.Profile) { p.Layers[0].Space = 9 },
		"no such layer":      func(p *profile.Profile) { p.Entries[0].Layer = 2 },
		"an empty chunk":     func(p *profile.Profile) { p.Entries[0].Size = 0 },
		"a negative place":   func(p *profile.Profile) { p.Entries[0].Member = -1 },
		"never read":         func(p *profile.Profile) { p.Entries[0].Seen = 0 },
		"a rank of no run":   func(p *profile.Profile) { p.Entries[0].Seen = 1; p.Entries[0].Ranks[3] = 1 },
		"inner in the plain": func(p *profile.Profile) { p.Layers[0].Space, p.Layers[1].Space = p.Layers[1].Space, p.Layers[0].Space },
		"too many layers":    func(p *profile.Profile) { p.Layers = make([]profile.Layer, profile.MaxLayers+1) },
		"more reads than runs": func(p *profile.Profile) {
			p.Runs = 1
			p.Entries[0].Seen = 2
		},
	} {
		p := sample(t)
		change(p)
		if _, err := profile.Encode(p); !fserr.Is(err, fserr.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	data := encode(f, sample(f))
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add(encode(f, merged(f, run(packed("a", 4, 1, 10, 0), 1))))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := profile.Decode(data); err == nil {
			usable(t, p)
		}
	})
}

// FuzzParse is FuzzDecode behind the checksum.
func FuzzParse(f *testing.F) {
	v := packed("a", 4, 1, 10, 0)
	for _, p := range []*profile.Profile{sample(f), merged(f, run(v, 1)), merged(f, run(v, 1, 2, 3), run(v, 1), run(v, 3, 2, 1))} {
		raw, err := profile.Unpack(encode(f, p))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if p, err := profile.Parse(raw); err == nil {
			usable(t, p)
		}
	})
}

// usable has everything done with a profile that is done with one.
func usable(t *testing.T, p *profile.Profile) {
	t.Helper()
	again, err := profile.Decode(encode(t, p))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, again, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("(-first +second):\n%s", diff)
	}
	views := []profile.View{packed("a", 50, 4, 5000, 100), unpacked("b", 50, 4096)}
	profile.Plan(p.Resolve(views), views, profile.Cost{})
	r := run(views[0], 1, 2)
	r.Manifest = p.Manifest
	if _, err := profile.Merge(p, r); err != nil && len(p.Layers) < profile.MaxLayers {
		t.Fatal(err)
	}
}
