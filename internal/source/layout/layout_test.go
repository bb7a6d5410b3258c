package layout_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/layout"
	"github.com/nineply/nineply/internal/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ref(path string) func(target string) string {
	return func(target string) string {
		if strings.Contains(target, ":") {
			return "oci:" + path + "@" + target
		}
		return "oci:" + path + ":" + target
	}
}

func TestSuite(t *testing.T) {
	for _, name := range []string{"layout", "a:b@sha c", "deep/er/layout"} {
		t.Run(name, func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T) sourcetest.Harness {
				return sourcetest.Harness{Backend: layout.New(), Ref: ref(filepath.Join(t.TempDir(), name))}
			})
		})
	}
}

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseReference(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want layout.Reference
		out  string
	}{
		{"oci:/a/b", layout.Reference{Path: "/a/b"}, "oci:/a/b"},
		{"oci:/a/b:v1", layout.Reference{Path: "/a/b", Tag: "v1"}, "oci:/a/b:v1"},
		{"oci:/a/../b//c/:v1", layout.Reference{Path: "/b/c", Tag: "v1"}, "oci:/b/c:v1"},
		{"oci:/a:b/c", layout.Reference{Path: "/a:b/c"}, "oci:/a:b/c"},
		{"oci:/a/b:c/", layout.Reference{Path: "/a/b:c"}, "oci:/a/b:c/"},
		{"oci:/a/b:c:d", layout.Reference{Path: "/a/b:c", Tag: "d"}, "oci:/a/b:c:d"},
		{"oci:/a@" + someDigest, layout.Reference{Path: "/a", Digest: someDigest}, "oci:/a@" + someDigest},
		{"oci-archive:/a.tar:v1", layout.Reference{Archive: true, Path: "/a.tar", Tag: "v1"}, "oci-archive:/a.tar:v1"},
	} {
		got, err := layout.ParseReference(tt.in)
		if err != nil || got != tt.want || got.String() != tt.out {
			t.Errorf("%s: %+v (%s), %v", tt.in, got, got, err)
		}
	}
	for _, in := range []string{
		"", "/a/b", "docker:/a", "oci:", "oci::v1", "oci:/a:", "oci:/a:b c", "oci:/a:.x", "oci:/a@sha256:short",
		"oci:/a\x00b", "oci:/" + strings.Repeat("a", 9000), "oci:@" + someDigest,
	} {
		if got, err := layout.ParseReference(in); !fserr.Is(err, fserr.Invalid) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"oci:/a:b", "oci:/a@" + someDigest, "oci-archive:x.tar", "oci:/a:b/", "oci:/@sha256:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := layout.ParseReference(s)
		if err != nil {
			return
		}
		again, err := layout.ParseReference(r.String())
		if err != nil || again != r {
			t.Errorf("%q gives %q, which gives %q, %v", s, r, again, err)
		}
	})
}

// build makes a layout with one image per tag.
func build(t *testing.T, tags ...string) (path string, images map[string]digest.Digest) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "layout")
	p, err := layout.New().Pusher(t.Context(), "oci:"+path)
	if err != nil {
		t.Fatal(err)
	}
	images = map[string]digest.Digest{}
	for _, tag := range tags {
		layer := push(t, p, ocispec.MediaTypeImageLayer, []byte("layer of "+tag))
		config := push(t, p, ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q]}}`, layer.Digest))
		desc, err := p.PushManifest(t.Context(), tag, ocispec.MediaTypeImageManifest, fmt.Appendf(nil,
			`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
			ocispec.MediaTypeImageManifest, config.MediaType, config.Digest, config.Size, layer.MediaType, layer.Digest, layer.Size))
		if err != nil {
			t.Fatal(err)
		}
		images[tag] = desc.Digest
	}
	return path, images
}

func push(t *testing.T, p source.Pusher, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := p.PushBlob(t.Context(), desc, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }); err != nil {
		t.Fatal(err)
	}
	return desc
}

func linux() ocispec.Platform { return ocispec.Platform{OS: "linux", Architecture: "amd64"} }

func TestChoice(t *testing.T) {
	one, first := build(t, "v1")
	latest, second := build(t, "v1", "latest", "v2")
	many, _ := build(t, "v1", "v2")
	for _, tt := range []struct {
		ref  string
		want digest.Digest
		kind fserr.Kind
	}{
		{"oci:" + one, first["v1"], 0},
		{"oci:" + one + ":v2", "", fserr.NotExist},
		{"oci:" + latest, second["latest"], 0},
		{"oci:" + latest + ":v2", second["v2"], 0},
		{"oci:" + many, "", fserr.Invalid},
		{"oci:" + filepath.Join(one, "missing"), "", fserr.NotExist},
		{"oci:" + filepath.Join(one, "index.json"), "", fserr.Unavailable},
	} {
		img, err := layout.New().Resolve(t.Context(), tt.ref, linux())
		if tt.kind != 0 {
			if !fserr.Is(err, tt.kind) {
				t.Errorf("%s: %v, want kind %v", tt.ref, err, tt.kind)
			}
			continue
		}
		if err != nil || img.Digest != tt.want {
			t.Errorf("%s: %v, %v", tt.ref, img, err)
		}
	}
}

func TestNames(t *testing.T) {
	path, images := build(t, "v1")
	index := filepath.Join(path, "index.json")
	for _, tt := range []struct{ annotations, tag string }{
		{`"org.opencontainers.image.ref.name":"v9"`, "v9"},
		{`"org.opencontainers.image.ref.name":"docker.io/library/x:v9"`, "v9"},
		{`"io.containerd.image.name":"docker.io/library/x:v9","org.opencontainers.image.ref.name":"other"`, "v9"},
	} {
		data := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":1,"annotations":{"x":"y"}},{"mediaType":%q,"digest":%q,"size":%d,"annotations":{%s}}]}`,
			ocispec.MediaTypeImageManifest, someDigest, ocispec.MediaTypeImageManifest, images["v1"], size(t, path, images["v1"]), tt.annotations)
		if err := os.WriteFile(index, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if img, err := layout.New().Resolve(t.Context(), "oci:"+path+":"+tt.tag, linux()); err != nil || img.Digest != images["v1"] {
			t.Errorf("%s: %v, %v", tt.annotations, img, err)
		}
	}
}

func blobFile(path string, d digest.Digest) string {
	return filepath.Join(path, "blobs", d.Algorithm().String(), d.Encoded())
}

func size(t *testing.T, path string, d digest.Digest) int64 {
	t.Helper()
	fi, err := os.Stat(blobFile(path, d))
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

func TestDamage(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, path string, manifest digest.Digest)
		kind   fserr.Kind
	}{
		{"no marker", func(t *testing.T, path string, _ digest.Digest) { remove(t, path, "oci-layout") }, fserr.NotExist},
		{"no index", func(t *testing.T, path string, _ digest.Digest) { remove(t, path, "index.json") }, fserr.NotExist},
		{"other version", func(t *testing.T, path string, _ digest.Digest) {
			overwrite(t, path, "oci-layout", `{"imageLayoutVersion":"2.0.0"}`)
		}, fserr.Unsupported},
		{"marker is large", func(t *testing.T, path string, _ digest.Digest) {
			overwrite(t, path, "oci-layout", strings.Repeat(" ", 5000))
		}, fserr.TooLarge},
		{"index is no JSON", func(t *testing.T, path string, _ digest.Digest) { overwrite(t, path, "index.json", "{") }, fserr.Corrupt},
		{"index with a bad digest", func(t *testing.T, path string, _ digest.Digest) {
			overwrite(t, path, "index.json", `{"manifests":[{"digest":"sha256:../../etc/passwd","size":5,"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}`)
		}, fserr.Corrupt},
		{"manifest missing", func(t *testing.T, path string, d digest.Digest) { remove(t, blobFile(path, d)) }, fserr.NotExist},
		{"manifest changed", func(t *testing.T, path string, d digest.Digest) {
			overwrite(t, blobFile(path, d), "", strings.Repeat("x", int(size(t, path, d))))
		}, fserr.Corrupt},
		{"manifest is shorter", func(t *testing.T, path string, d digest.Digest) { overwrite(t, blobFile(path, d), "", "{}") }, fserr.Corrupt},
		{"manifest is a directory", func(t *testing.T, path string, d digest.Digest) {
			remove(t, blobFile(path, d))
			if err := os.Mkdir(blobFile(path, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}, fserr.Unavailable},
		{"manifest is a link to elsewhere", func(t *testing.T, path string, d digest.Digest) {
			outside := filepath.Join(t.TempDir(), "copy")
			if err := os.Rename(blobFile(path, d), outside); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(outside, blobFile(path, d)); err != nil {
				t.Fatal(err)
			}
		}, fserr.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, images := build(t, "v1")
			tt.damage(t, path, images["v1"])
			_, err := layout.New().Resolve(t.Context(), "oci:"+path+":v1", linux())
			if !fserr.Is(err, tt.kind) {
				t.Errorf("%v (%v), want kind %v", err, fserr.KindOf(err), tt.kind)
			}
		})
	}
}

func remove(t *testing.T, parts ...string) {
	t.Helper()
	if err := os.Remove(filepath.Join(parts...)); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, path, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestArchive(t *testing.T) {
	path, images := build(t, "v1", "v2")
	file := filepath.Join(t.TempDir(), "image.tar")
	l := layout.New()
	write := func(prefix string) {
		t.Helper()
		if err := os.WriteFile(file, archive(t, path, prefix), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, prefix := range []string{"", "./"} {
		write(prefix)
		for tag, want := range images {
			img, err := l.Resolve(t.Context(), "oci-archive:"+file+":"+tag, linux())
			if err != nil || img.Digest != want {
				t.Fatalf("%s: %v, %v", tag, img, err)
			}
			b, err := l.Blob(t.Context(), img.Ref, img.Manifest.Layers[0])
			if err != nil {
				t.Fatal(err)
			}
			p := make([]byte, b.Size()-3)
			if err := b.ReadRange(t.Context(), 3, p); err != nil || string(p) != ("layer of " + tag)[3:] {
				t.Errorf("%q, %v", p, err)
			}
		}
	}
	if _, err := l.Resolve(t.Context(), "oci-archive:"+file+".missing", linux()); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("missing: %v", err)
	}
	if err := os.WriteFile(file, bytes.Repeat([]byte("no tar "), 200), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Resolve(t.Context(), "oci-archive:"+file, linux()); !fserr.Is(err, fserr.Corrupt) {
		t.Errorf("no tar: %v", err)
	}
}

func archive(t *testing.T, dir, prefix string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: prefix + name, Size: int64(len(data)), Mode: 0o644}); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestConcurrentPushes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layout")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			p, err := layout.New().Pusher(t.Context(), "oci:"+path)
			if err != nil {
				t.Error(err)
				return
			}
			for j := range 5 {
				tag := fmt.Sprintf("t%d-%d", i, j)
				if _, err := p.PushManifest(t.Context(), tag, ocispec.MediaTypeImageIndex, fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[],"x":%q}`, tag)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range 8 {
		for j := range 5 {
			if _, _, err := layout.New().FetchManifest(t.Context(), fmt.Sprintf("oci:%s:t%d-%d", path, i, j)); err != nil {
				t.Error(err)
			}
		}
	}
	leftovers, err := filepath.Glob(filepath.Join(path, ".*"))
	if err != nil || len(leftovers) != 0 {
		t.Errorf("left over: %v, %v", leftovers, err)
	}
}

func TestPushCannotWrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	overwrite(t, file, "", "x")
	if _, err := layout.New().Pusher(t.Context(), "oci:"+file); err == nil {
		t.Error("a file was taken for a layout")
	}
	path, _ := build(t, "v1")
	p, err := layout.New().Pusher(t.Context(), "oci:"+path)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, path, "index.json", "not JSON")
	if _, err := p.PushManifest(t.Context(), "v2", ocispec.MediaTypeImageIndex, []byte("{}")); !fserr.Is(err, fserr.Corrupt) {
		t.Errorf("a broken index was written over: %v", err)
	}
	if data, err := os.ReadFile(filepath.Join(path, "index.json")); err != nil || string(data) != "not JSON" {
		t.Errorf("index.json is %q, %v", data, err)
	}
}
