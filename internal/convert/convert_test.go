package convert_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/layout"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// layer is a plain tar.gz layer with files name → content.
func layer(t *testing.T, files ...[2]string) testreg.Layer {
	t.Helper()
	var raw, out bytes.Buffer
	tw := tar.NewWriter(&raw)
	for _, f := range files {
		if err := tw.WriteHeader(&tar.Header{Name: f[0], Mode: 0o4755, Uid: 7, Size: int64(len(f[1])), Typeflag: tar.TypeReg, ModTime: time.Unix(9, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, f[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	zw := gzip.NewWriter(&out)
	if _, err := zw.Write(raw.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return testreg.Layer{Data: out.Bytes(), DiffID: digest.FromBytes(raw.Bytes())}
}

func sources(t *testing.T) source.Mux {
	t.Helper()
	r := registry.New(registry.Options{Attempts: 2, BackoffInitial: time.Millisecond, BackoffMax: time.Millisecond})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return source.Mux{Registry: r, Layout: layout.New()}
}

// files reads a converted layer back through its TOC.
func files(t *testing.T, blob []byte) map[string]string {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	tr := tar.NewReader(zr)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name != estargz.TOCName && !strings.HasSuffix(h.Name, ".landmark") {
			got[h.Name] = string(body)
		}
	}
}

func TestRegistryToRegistry(t *testing.T) {
	reg := testreg.New(t)
	added := reg.AddImage("app", "v1", testreg.Image{
		Layers: []testreg.Layer{layer(t, [2]string{"a", strings.Repeat("x", 3<<20)}, [2]string{"b", "2"}), layer(t, [2]string{".wh.b", ""})},
		Config: ocispec.ImageConfig{Cmd: []string{"/a"}}, Annotations: map[string]string{"k": "v"},
	})
	src := sources(t)
	var events atomic.Int32
	res, err := convert.Convert(t.Context(), src, reg.Ref("app", "v1"), src, reg.Ref("app", "lazy"), convert.Options{Progress: func(convert.Event) { events.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	if events.Load() != 4 || res.SourceDigest != added.Descriptor.Digest || len(res.Images[0].Layers) != 2 || res.SourceSize != added.Layers[0].Size+added.Layers[1].Size {
		t.Errorf("%d events, %+v", events.Load(), res)
	}
	img, err := src.Resolve(t.Context(), reg.Ref("app", "lazy"), ocispec.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	if img.Digest != res.Digest || img.Config.Config.Cmd[0] != "/a" || img.Manifest.Annotations["k"] != "v" {
		t.Errorf("%+v", img)
	}
	report, err := image.Inspect(t.Context(), src, reg.Ref("app", "lazy"), ocispec.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil || !report.Lazy {
		t.Fatalf("%+v, %v", report, err)
	}
	blob, _ := reg.Blob("app", res.Images[0].Layers[0].Digest)
	if got := files(t, blob); len(got) != 2 || len(got["a"]) != 3<<20 || got["b"] != "2" {
		t.Errorf("%d files", len(got))
	}
	again, err := convert.Convert(t.Context(), src, reg.Ref("app", "v1"), src, reg.Ref("app", "again"), convert.Options{Parallel: 1, Writer: estargz.WriterOptions{Workers: 1}})
	if err != nil || again.Digest != res.Digest {
		t.Errorf("not reproducible: %s, %s, %v", again.Digest, res.Digest, err)
	}
}

func TestToLayoutAndBack(t *testing.T) {
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer(t, [2]string{"a", "1"})}})
	src := sources(t)
	dir := "oci:" + filepath.Join(t.TempDir(), "layout") + ":lazy"
	if _, err := convert.Convert(t.Context(), src, reg.Ref("app", "v1"), src, dir, convert.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := convert.Convert(t.Context(), src, dir, src, reg.Ref("back", "v2"), convert.Options{}); err != nil {
		t.Fatal(err)
	}
	if report, err := image.Inspect(t.Context(), src, reg.Ref("back", "v2"), ocispec.Platform{}); err != nil || !report.Lazy {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestUnknownConfigFieldsAreKept(t *testing.T) {
	reg := testreg.New(t)
	l := layer(t, [2]string{"a", "1"})
	desc := reg.AddBlob(l.Data)
	config := []byte(`{"architecture":"amd64","os":"linux","com.example.extra":{"x":1},"rootfs":{"type":"layers","diff_ids":["` + l.DiffID.String() + `"]}}`)
	cdesc := reg.AddBlob(config)
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest,
		"config": map[string]any{"mediaType": ocispec.MediaTypeImageConfig, "digest": cdesc.Digest, "size": cdesc.Size},
		"layers": []any{map[string]any{"mediaType": ocispec.MediaTypeImageLayerGzip, "digest": desc.Digest, "size": desc.Size}},
	})
	if err != nil {
		t.Fatal(err)
	}
	reg.AddManifest("app", "v1", ocispec.MediaTypeImageManifest, manifest)
	src := sources(t)
	if _, err := convert.Convert(t.Context(), src, reg.Ref("app", "v1"), src, reg.Ref("app", "v2"), convert.Options{}); err != nil {
		t.Fatal(err)
	}
	img, err := src.Resolve(t.Context(), reg.Ref("app", "v2"), ocispec.Platform{})
	if err != nil || !bytes.Contains(img.ConfigBytes, []byte(`"com.example.extra":{"x":1}`)) {
		t.Errorf("%s, %v", img.ConfigBytes, err)
	}
}

func TestBrokenConversionLeavesNoTag(t *testing.T) {
	wrongDiffID := layer(t, [2]string{"a", "1"})
	wrongDiffID.DiffID = digest.FromString("other")
	truncated := layer(t, [2]string{"a", strings.Repeat("y", 100_000)})
	truncated.Data = truncated.Data[:len(truncated.Data)/2]
	for name, tt := range map[string]struct {
		layer testreg.Layer
		fault func(*testreg.Registry)
		kind  fserr.Kind
	}{
		"content has another diff ID": {layer: wrongDiffID, kind: fserr.Corrupt},
		"truncated gzip":              {layer: truncated, kind: fserr.Corrupt},
		"push refused": {layer: layer(t, [2]string{"a", "1"}), kind: fserr.Unauthorized, fault: func(r *testreg.Registry) {
			r.Always(testreg.Match{Method: "POST"}, testreg.Status(403))
		}},
		"push breaks": {layer: layer(t, [2]string{"a", "1"}), kind: fserr.Unavailable, fault: func(r *testreg.Registry) {
			r.Always(testreg.Match{Method: "PUT"}, testreg.Status(500))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := testreg.New(t)
			reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{tt.layer}})
			if tt.fault != nil {
				tt.fault(reg)
			}
			src := sources(t)
			_, err := convert.Convert(t.Context(), src, reg.Ref("app", "v1"), src, reg.Ref("app", "lazy"), convert.Options{})
			if !fserr.Is(err, tt.kind) {
				t.Errorf("%v (%v), want %v", err, fserr.KindOf(err), tt.kind)
			}
			if _, _, ok := reg.Manifest("app", "lazy"); ok {
				t.Error("a tag was left")
			}
		})
	}
}
