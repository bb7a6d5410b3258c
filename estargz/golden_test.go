package estargz_test

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGoldenBlobs pins the bytes of layers: what was pushed once is made again,
// and what was made by an earlier version is read. A new compressor may change
// them; then new golden files belong to that change.
func TestGoldenBlobs(t *testing.T) {
	src := tarOf(t, dir("etc/"), reg("etc/hostname", "nineply\n"), hardlink("etc/alias", "etc/hostname"), reg("empty", ""),
		reg("long", "0123456789abcdef0123456789abcdef0123456789abcdef\n"))
	for name, opts := range formats() {
		t.Run(name, func(t *testing.T) {
			opts.ChunkSize, opts.MinMemberSize = 20, 10
			want := []string{"empty", "etc/", "etc/alias", "etc/hostname", "long"}
			if !opts.KeepDiffID {
				opts.Prioritized = []string{"etc/alias"}
				want = append([]string{estargz.PrefetchLandmark}, want...)
			}
			path := filepath.Join("testdata", "golden-"+strings.ReplaceAll(name, " ", "-")+".blob")
			blob, res := build(t, opts, bytes.NewReader(src))
			if *update {
				if err := os.WriteFile(path, blob, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(blob, golden) {
				t.Errorf("the blob has changed: %d bytes, golden %d", len(blob), len(golden))
			}
			files := served(t, golden, res)
			if diff := cmp.Diff(want, slices.Sorted(maps.Keys(files))); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			if files["etc/hostname"].Body != "nineply\n" {
				t.Errorf("golden blob reads as %+v", files)
			}
		})
	}
}

func TestWriterOptions(t *testing.T) {
	for _, opts := range []estargz.WriterOptions{
		{ChunkSize: -1}, {ChunkSize: 65 << 20}, {MinMemberSize: -2}, {Level: 10}, {Level: -1}, {Workers: -1},
		{ChunkSize: 2000, Limits: estargz.Limits{ChunkSize: 1000}},
	} {
		if _, _, err := tryBuild(opts, bytes.NewReader(nil)); fserr.KindOf(err) != fserr.Invalid {
			t.Errorf("%+v: %v", opts, err)
		}
	}
}

func TestWriterUse(t *testing.T) {
	w := estargz.NewWriter(new(bytes.Buffer), estargz.WriterOptions{})
	if _, err := w.Close(); fserr.KindOf(err) != fserr.Invalid {
		t.Errorf("Close without a tar: %v", err)
	}
	w = estargz.NewWriter(new(bytes.Buffer), estargz.WriterOptions{})
	if err := w.AppendTar(t.Context(), bytes.NewReader(nil)); err != nil {
		t.Errorf("empty tar: %v", err)
	}
	if err := w.AppendTar(t.Context(), bytes.NewReader(nil)); fserr.KindOf(err) != fserr.Invalid {
		t.Errorf("second tar: %v", err)
	}
	var blob bytes.Buffer
	w = estargz.NewWriter(&blob, estargz.WriterOptions{})
	if err := w.AppendTar(t.Context(), bytes.NewReader(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(); fserr.KindOf(err) != fserr.Closed {
		t.Errorf("second Close: %v", err)
	}
	if names := tocNames(t, blob.Bytes()); len(names) != 1 {
		t.Errorf("an empty layer has %v", names)
	}
}

func TestWriterLimits(t *testing.T) {
	src := tarOf(t, reg("a", "12345"), reg("b", "1"))
	for want, lim := range map[error]estargz.Limits{
		estargz.ErrEntries: {Entries: 2}, estargz.ErrTOCSize: {TOCSize: 300},
	} {
		if _, _, err := tryBuild(estargz.WriterOptions{Limits: lim}, bytes.NewReader(src)); fserr.KindOf(err) != fserr.TooLarge {
			t.Errorf("%v, want %v", err, want)
		}
	}
}
