package optimize_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/daemon"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/optimize"
	"github.com/nineply/nineply/internal/profile"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/testreg"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func number(n int) *int { return &n }

func TestOrder(t *testing.T) {
	mine := &source.Image{Digest: digest.FromString("mine")}
	other := &source.Image{Digest: digest.FromString("other")}
	own, foreign := mine.Digest.String(), digest.FromString("foreign").String()
	for name, tt := range map[string]struct {
		records []profile.Record
		img     *source.Image
		want    [2][]string
	}{
		"paths":                     {[]profile.Record{{Path: "b"}, {Path: "/a/../b"}, {Path: "a"}, {Path: "/"}}, mine, [2][]string{{"b", "a"}, {"b", "a"}}},
		"layers":                    {[]profile.Record{{Path: "b", LayerIndex: number(1)}, {Path: "a", LayerIndex: number(0)}}, mine, [2][]string{{"a"}, {"b"}}},
		"of the image":              {[]profile.Record{{Path: "b", ManifestDigest: own, LayerIndex: number(1)}, {Path: "x", ManifestDigest: foreign, LayerIndex: number(0)}, {Path: "c"}}, mine, [2][]string{{"c"}, {"b", "c"}}},
		"of the image, every layer": {[]profile.Record{{Path: "b", ManifestDigest: own}}, mine, [2][]string{{"b"}, {"b"}}},
		"of another image":          {[]profile.Record{{Path: "b", ManifestDigest: own, LayerIndex: number(1)}, {Path: "a", ManifestDigest: own, LayerIndex: number(0)}}, other, [2][]string{{"b", "a"}, {"b", "a"}}},
		"none":                      {nil, mine, [2][]string{nil, nil}},
	} {
		t.Run(name, func(t *testing.T) {
			o := optimize.NewOrder(tt.records)
			if diff := cmp.Diff(tt.want, [2][]string{o.Layer(tt.img, 0), o.Layer(tt.img, 1)}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReadList(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []profile.Record
		kind fserr.Kind
	}{
		"paths":   {"/bin/sh\n\n  etc/passwd \n", []profile.Record{{Path: "/bin/sh"}, {Path: "etc/passwd"}}, 0},
		"records": {"\n{\"path\":\"/a\",\"manifestDigest\":\"sha256:x\",\"layerIndex\":2}\n{\"path\":\"b\"}\n", []profile.Record{{Path: "a", ManifestDigest: "sha256:x", LayerIndex: number(2)}, {Path: "b"}}, 0},
		"empty":   {"", nil, 0},
		"damaged": {"{\"path\":", nil, fserr.Corrupt},
		"profile": {"nplyprf\x01", nil, fserr.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := optimize.ReadList([]byte(tt.text))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if tt.kind != 0 && !fserr.Is(err, tt.kind) || tt.kind == 0 && err != nil {
				t.Errorf("%v, want kind %v", err, tt.kind)
			}
		})
	}
}

func TestParseMount(t *testing.T) {
	for text, want := range map[string]optimize.Mount{
		"/a:/b": {Source: "/a", Target: "/b"}, "/a:/b:ro": {Source: "/a", Target: "/b", ReadOnly: true}, "/a:/b:rw": {Source: "/a", Target: "/b"},
	} {
		if got, err := optimize.ParseMount(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "/a", "a:/b", "/a:b", "/a:/b:xx", "/a:/b:ro:z"} {
		if got, err := optimize.ParseMount(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// layer is a plain layer with files of the same size.
func layer(t *testing.T, names ...string) testreg.Layer {
	t.Helper()
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, name := range names {
		text := strings.Repeat(name+"\n", 20_000)
		must(t, tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}))
		_, err := tw.Write([]byte(text))
		must(t, err)
	}
	must(t, tw.Close())
	return testreg.Layer{Data: out.Bytes(), DiffID: digest.FromBytes(out.Bytes()), MediaType: ocispec.MediaTypeImageLayer}
}

// place is a registry with an image, and what an optimization needs.
type place struct {
	reg  *testreg.Registry
	src  *daemon.SourceSet
	opts optimize.Options
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{reg: testreg.New(t)}
	p.reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer(t, "a", "b", "c"), layer(t, "b", "d")}})
	dir := t.TempDir()
	c := config.Default(dir+"/root", dir+"/run")
	p.src = daemon.Sources(c)
	t.Cleanup(func() {
		if err := p.src.Close(); err != nil {
			t.Error(err)
		}
	})
	p.opts = optimize.Options{Source: p.reg.Ref("app", "v1"), Target: p.reg.Ref("app", "fast"), Config: c, TempDir: t.TempDir()}
	return p
}

// TestListGivesTheOrder optimizes by a list; repeated, everything is kept.
func TestListGivesTheOrder(t *testing.T) {
	p := newPlace(t)
	img, err := p.src.Resolve(t.Context(), p.opts.Source, ocispec.Platform{})
	must(t, err)
	var list bytes.Buffer
	must(t, profile.WriteRecords(&list, []profile.Record{
		{Path: "c", ManifestDigest: img.Digest.String(), LayerIndex: number(0)},
		{Path: "b", ManifestDigest: img.Digest.String(), LayerIndex: number(1)},
	}))
	p.opts.List = list.Bytes()
	res, err := optimize.Optimize(t.Context(), p.src, p.opts)
	must(t, err)
	if res.From != optimize.FromFile || res.Files != 2 || res.First != 2 || res.Rewritten != 2 || res.Layers != 2 || res.Prefetch == 0 || !bytes.Equal(res.Records, p.opts.List) {
		t.Errorf("%+v", res)
	}
	report, err := image.Inspect(t.Context(), p.src, p.opts.Target, ocispec.Platform{})
	must(t, err)
	for i, l := range report.Layers {
		if l.Landmark != "prefetch" || l.Prefetch != res.Images[0].Layers[i].Prefetch {
			t.Errorf("%+v", l)
		}
	}
	p.opts.Source, p.opts.Target = p.opts.Target, p.reg.Ref("app", "again")
	p.opts.Convert = convert.Options{Reusable: image.Wanted{}.Check(p.src)}
	p.opts.List = bytes.ReplaceAll(p.opts.List, []byte(img.Digest), []byte(res.Digest))
	again, err := optimize.Optimize(t.Context(), p.src, p.opts)
	must(t, err)
	if again.Rewritten != 0 || again.Digest != res.Digest || again.First != 2 || again.Prefetch != res.Prefetch {
		t.Errorf("%+v", again)
	}
}

// TestOtherPlatforms are ordered by the same names, and that is noted.
func TestOtherPlatforms(t *testing.T) {
	p := newPlace(t)
	var images []testreg.Added
	for _, arch := range []string{runtime.GOARCH, "s390x"} {
		images = append(images, p.reg.AddImage("app", "", testreg.Image{
			Platform: ocispec.Platform{OS: "linux", Architecture: arch}, Layers: []testreg.Layer{layer(t, "a", "b"), layer(t, "b", arch)},
		}))
	}
	p.reg.AddIndex("app", "multi", images[0].Descriptor, images[1].Descriptor)
	p.opts.Source = p.reg.Ref("app", "multi")
	p.opts.Convert.Select = source.Selection{All: true}
	p.opts.List = fmt.Appendf(nil, `{"path":"b","manifestDigest":%[1]q,"layerIndex":1}
{"path":%[2]q,"manifestDigest":%[1]q,"layerIndex":1}`, images[0].Descriptor.Digest, runtime.GOARCH)
	res, err := optimize.Optimize(t.Context(), p.src, p.opts)
	must(t, err)
	got := map[string][]int{}
	for _, img := range res.Images {
		for _, l := range img.Layers {
			got[img.Platform] = append(got[img.Platform], l.First)
		}
	}
	// Of the layer below, which is one for both, nothing was read.
	if diff := cmp.Diff(map[string][]int{"linux/" + runtime.GOARCH: {0, 2}, "linux/s390x": {0, 1}}, got); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(strings.Join(res.Notes, "\n"), "read of another image") {
		t.Errorf("notes: %q", res.Notes)
	}
}

// FuzzReadList: whatever a list is, what comes first are clean names.
func FuzzReadList(f *testing.F) {
	for _, seed := range []string{"bin/sh\n", "{\"path\":\"a\",\"layerIndex\":1}\n", "nplyprf\x01", "\n{", "/\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		records, err := optimize.ReadList(data)
		if err != nil {
			return
		}
		order := optimize.NewOrder(records)
		names := order.Layer(&source.Image{Digest: digest.FromString("any")}, 0)
		for _, name := range names {
			if name == "" || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "../") {
				t.Errorf("%q comes first", name)
			}
		}
		if len(names) > len(records) {
			t.Errorf("%d names of %d records", len(names), len(records))
		}
	})
}

// TestWhatCannotBeOptimized leaves nothing at the target, and says why.
func TestWhatCannotBeOptimized(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*optimize.Options)
		kind   fserr.Kind
		says   string
	}{
		"no profile":        {func(*optimize.Options) {}, fserr.NotExist, "--run"},
		"empty list":        {func(o *optimize.Options) { o.List = []byte("\n") }, fserr.Invalid, "names no files"},
		"damaged profile":   {func(o *optimize.Options) { o.List = []byte("nplyprf\x01xxxx") }, fserr.Corrupt, ""},
		"no such image":     {func(o *optimize.Options) { o.Source += "-none" }, fserr.NotExist, ""},
		"digest as target":  {func(o *optimize.Options) { o.Target += "@" + digest.FromString("x").String() }, fserr.Invalid, "name a tag"},
		"no such runtime":   {func(o *optimize.Options) { o.Run = &optimize.Run{Runtime: "no-such-runtime"} }, 0, ""},
		"nothing to run":    {func(o *optimize.Options) { o.Run = &optimize.Run{} }, 0, ""},
		"no temporary file": {func(o *optimize.Options) { o.TempDir += "/none" }, 0, "temporary directory"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			tt.change(&p.opts)
			_, err := optimize.Optimize(t.Context(), p.src, p.opts)
			if err == nil || tt.kind != 0 && !fserr.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v (%v), want kind %v with %q", err, fserr.KindOf(err), tt.kind, tt.says)
			}
			if _, err := p.src.Resolve(t.Context(), p.reg.Ref("app", "fast"), ocispec.Platform{}); !fserr.Is(err, fserr.NotExist) {
				t.Errorf("the target is there: %v", err)
			}
		})
	}
}
