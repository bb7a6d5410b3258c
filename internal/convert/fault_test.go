package convert_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/testreg"
)

// TestPushThatBreaks refuses one request after the other, for good or once: in
// the end there is an image, or an error and no tag. Only where a registry stops
// for good between two tags, the first one stays, and the error says so.
func TestPushThatBreaks(t *testing.T) {
	from := testreg.New(t)
	multi(t, from)
	for name, w := range map[string]estargz.WriterOptions{"one tag": {}, "a TOC image": {KeepDiffID: true}} {
		for _, once := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, once %v", name, once), func(t *testing.T) { breakPushes(t, from, w, once) })
		}
	}
}

func breakPushes(t *testing.T, from *testreg.Registry, w estargz.WriterOptions, once bool) {
	src := sources(t)
	run := func(to *testreg.Registry) error {
		_, err := convert.Convert(t.Context(), src, from.Ref("app", "multi"), src, to.Ref("new/app", "lazy"),
			convert.Options{Select: source.Selection{All: true}, Writer: w})
		return err
	}
	good := testreg.New(t)
	must(t, run(good))
	n := good.Count(testreg.Match{}).Requests
	if n < 12 {
		t.Fatalf("only %d requests", n)
	}
	failed, tried, stayed := 0, 0, 0
	step := 1
	if testing.Short() {
		step = 5
	}
	for i := 0; i < n; i += step {
		tried++
		to := testreg.New(t)
		to.On(testreg.Match{}, testreg.Times(i, testreg.Pass())...)
		if once {
			to.On(testreg.Match{}, testreg.Status(403))
		} else {
			to.Always(testreg.Match{}, testreg.Status(403))
		}
		err := run(to)
		_, _, tagged := to.Manifest("new/app", "lazy")
		_, _, toc := to.Manifest("new/app", "lazy-esgztoc")
		if tagged == (err != nil) {
			t.Errorf("request %d of %d: tag %v, %v", i, n, tagged, err)
		}
		if err != nil {
			failed++
		}
		if err != nil && toc {
			if stayed++; once || !strings.Contains(err.Error(), "stayed behind") {
				t.Errorf("request %d of %d: the TOC image stayed: %v", i, n, err)
			}
		}
		to.Close()
	}
	if failed < tried-3 || stayed > 1 {
		t.Errorf("of %d broken pushes %d failed, %d left a TOC image", tried, failed, stayed)
	}
}

// TestTakenTagIsGivenBack: what had the tag of the TOC image has it again.
func TestTakenTagIsGivenBack(t *testing.T) {
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer(t, [2]string{"a", "1"})}})
	before := reg.AddImage("app", "lazy-esgztoc", testreg.Image{}).Descriptor.Digest
	src := sources(t)
	opts := convert.Options{Writer: estargz.WriterOptions{KeepDiffID: true}}
	reg.Always(testreg.Match{Method: "PUT", Path: "/manifests/lazy"}, func(x testreg.Exchange) {
		if strings.HasSuffix(x.R.URL.Path, "/lazy") {
			testreg.Status(403)(x)
			return
		}
		x.Serve(x.W, x.R)
	})
	if _, err := convert.Convert(t.Context(), src, reg.Ref("app", "v1"), src, reg.Ref("app", "lazy"), opts); !fserr.Is(err, fserr.Unauthorized) {
		t.Errorf("%v", err)
	}
	if desc, _, ok := reg.Manifest("app", "lazy-esgztoc"); !ok || desc.Digest != before {
		t.Errorf("%v, %v", desc, ok)
	}
	reg.Heal()
	res, err := convert.Convert(t.Context(), src, reg.Ref("app", "v1"), src, reg.Ref("app", "lazy"), opts)
	must(t, err)
	if desc, _, ok := reg.Manifest("app", "lazy-esgztoc"); !ok || desc.Digest != res.TOCDigest || !res.Images[0].SameConfig {
		t.Errorf("%v, %+v", desc, res)
	}
}

// special is a layer with an entry that no format can express.
func special(t *testing.T) testreg.Layer {
	t.Helper()
	var raw bytes.Buffer
	tw := tar.NewWriter(&raw)
	must(t, tw.WriteHeader(&tar.Header{Name: "fine", Mode: 0o644, Typeflag: tar.TypeReg}))
	must(t, tw.WriteHeader(&tar.Header{Name: "dir/volume label", Mode: 0o644, Typeflag: tar.TypeFifo}))
	must(t, tw.Close())
	p := raw.Bytes()
	h := p[512:1024]
	h[156] = 'V'
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return testreg.Layer{Data: p, DiffID: digest.FromBytes(p), MediaType: ocispec.MediaTypeImageLayer}
}

// TestBadInputIsRefusedBeforeAnythingIsPushed: the error names the entry, and the
// target was not even asked.
func TestBadInputIsRefusedBeforeAnythingIsPushed(t *testing.T) {
	from, to := testreg.New(t), testreg.New(t)
	good := layer(t, [2]string{"a", strings.Repeat("x", 100_000)})
	var list []ocispec.Descriptor
	for arch, l := range map[string][]testreg.Layer{"amd64": {good, good}, "arm64": {good, special(t)}} {
		list = append(list, from.AddImage("app", "", testreg.Image{Platform: linux(arch), Layers: l}).Descriptor)
	}
	from.AddIndex("app", "v1", list...)
	src := sources(t)
	_, err := convert.Convert(t.Context(), src, from.Ref("app", "v1"), src, to.Ref("app", "lazy"), convert.Options{Select: source.Selection{All: true}})
	if !fserr.Is(err, fserr.Unsupported) || !strings.Contains(err.Error(), "dir/volume label") || !strings.Contains(err.Error(), "layer 2 of linux/arm64") {
		t.Errorf("%v", err)
	}
	if asked := to.Requests(testreg.Match{}); len(asked) != 0 {
		t.Errorf("the target was asked: %+v", asked)
	}
	archive := filepath.Join(t.TempDir(), "a.tar")
	if _, err := convert.Convert(t.Context(), src, from.Ref("app", "v1"), src, "oci-archive:"+archive, convert.Options{Select: source.Selection{All: true}}); err == nil {
		t.Error("converted")
	}
	if left, err := os.ReadDir(filepath.Dir(archive)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestTargetNeedsATag(t *testing.T) {
	src := sources(t)
	for _, dst := range []string{"example.com/a@" + digest.FromString("x").String(), "oci:/a@" + digest.FromString("x").String()} {
		if _, err := convert.Convert(t.Context(), src, "example.com/a", src, dst, convert.Options{}); !fserr.Is(err, fserr.Invalid) {
			t.Errorf("%s: %v", dst, err)
		}
	}
}

// TestNothingStaysInTheTemporaryDirectory, whether it worked, failed, or was
// interrupted in the middle.
func TestNothingStaysInTheTemporaryDirectory(t *testing.T) {
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer(t, [2]string{"a", "1"}), layer(t, [2]string{"b", strings.Repeat("2", 1<<20)})}})
	src := sources(t)
	dir := t.TempDir()
	look := func(convert.Event) {
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("a file with a name: %v, %v", left, err)
		}
	}
	_, err := convert.Convert(t.Context(), src, reg.Ref("app", "v1"), src, reg.Ref("app", "lazy"), convert.Options{TempDir: dir, Progress: look})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = convert.Convert(ctx, src, reg.Ref("app", "v1"), src, reg.Ref("app", "other"), convert.Options{TempDir: dir, Parallel: 1, Progress: func(e convert.Event) {
		look(e)
		cancel()
	}})
	if !fserr.Is(err, fserr.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	look(convert.Event{})
	if _, _, ok := reg.Manifest("app", "other"); ok {
		t.Error("a tag was left")
	}
	ctx, cancel = context.WithCancel(t.Context())
	_, err = convert.Convert(ctx, src, reg.Ref("app", "v1"), src, "oci-archive:"+filepath.Join(dir, "a.tar"), convert.Options{TempDir: dir, Progress: func(e convert.Event) {
		if e.Pushed {
			cancel()
		}
	}})
	if !fserr.Is(err, fserr.Canceled) {
		t.Errorf("interrupted while it was written: %v", err)
	}
	look(convert.Event{})
}

// TestReusedLayersAreCopied without a temporary file, and linked where the
// registry has them already.
func TestReusedLayersAreCopied(t *testing.T) {
	reg, other := testreg.New(t), testreg.New(t)
	data := layer(t, [2]string{"a", "1"})
	desc := reg.AddBlobTo("from/app", data.Data)
	reg.AddImage("from/app", "v1", testreg.Image{Docker: true, Layers: []testreg.Layer{data}})
	reg.RemoveBlob(desc.Digest)
	reg.AddBlobTo("from/app", data.Data)
	src := sources(t)
	opts := convert.Options{TempDir: "/nonexistent", Reusable: func(context.Context, string, ocispec.Descriptor) (bool, error) { return true, nil }}
	res, err := convert.Convert(t.Context(), src, reg.Ref("from/app", "v1"), src, reg.Ref("to/app", "v1"), opts)
	must(t, err)
	if l := res.Images[0].Layers[0]; !l.Reused || l.Digest != desc.Digest || !res.Images[0].SameConfig {
		t.Errorf("%+v", res)
	}
	if sent := reg.Requests(testreg.Match{Method: "PUT", Digest: desc.Digest}); len(sent) != 0 {
		t.Errorf("uploaded: %+v", sent)
	}
	if _, ok := reg.Blob("to/app", desc.Digest); !ok {
		t.Error("not linked")
	}
	_, err = convert.Convert(t.Context(), src, reg.Ref("from/app", "v1"), src, other.Ref("app", "v1"), opts)
	must(t, err)
	if got, ok := other.Blob("app", desc.Digest); !ok || !bytes.Equal(got, data.Data) {
		t.Error("not copied")
	}
	img, err := src.Resolve(t.Context(), other.Ref("app", "v1"), ocispec.Platform{})
	must(t, err)
	if mt := img.Manifest.Layers[0].MediaType; mt != ocispec.MediaTypeImageLayerGzip {
		t.Errorf("media type %s", mt)
	}
	opts.Reusable = func(context.Context, string, ocispec.Descriptor) (bool, error) { return false, io.ErrUnexpectedEOF }
	if _, err := convert.Convert(t.Context(), src, reg.Ref("from/app", "v1"), src, reg.Ref("to/app", "v2"), opts); err == nil {
		t.Error("the check's error was lost")
	}
}
