package image_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var big = strings.Repeat("all work and no play ", 150_000) // three chunks

func TestMergedImageOfEveryLayerFormat(t *testing.T) {
	reg := testreg.New(t)
	added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{
		lazyLayer(t, file{name: "etc/"}, file{name: "etc/base", body: "base"}, file{name: "gone", body: "x"}, file{name: "big", body: big}),
		gzipLayer(t, file{name: "etc/plain", body: "plain"}, file{name: ".wh.gone"}),
		zstdLayer(t, file{name: "zstd", body: big}),
		lazyLayer(t, file{name: "etc/base", body: "newer"}),
	}})
	want := map[string]string{"etc/base": "newer", "etc/plain": "plain", "gone": "", "big": big, "zstd": big}
	n, _ := start(t, t.TempDir(), 0)
	check(t, n.tree(t, "image/"+reg.Ref("app", "v1")), want)
	check(t, n.tree(t, "image/"+added.Descriptor.Digest.String()), want)
	check(t, n.tree(t, "layer/"+added.Layers[1].Digest.String()), map[string]string{"etc/plain": "plain", "etc/base": ""})
	formats := map[string]string{}
	for i, f := range []string{"estargz", "gzip+index", "whole", "estargz"} {
		formats[added.Layers[i].Digest.String()] = f
	}
	for _, l := range n.Layers() {
		if l.Format != formats[l.Digest] || l.Lazy != (l.Format != "whole") || (l.Reason == "") != (l.Format == "estargz") {
			t.Errorf("want %s: %+v", formats[l.Digest], l)
		}
	}
}

func TestLazyLayerFetchesWhatIsRead(t *testing.T) {
	reg := testreg.New(t)
	noise := make([]byte, 4<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 7 * 31)
	}
	var files []file
	for _, name := range []string{"a", "b", "c", "d"} {
		files = append(files, file{name: name, body: name + string(noise)})
	}
	added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, append(files, file{name: "z", body: "tiny"})...)}})
	n, _ := start(t, t.TempDir(), 0)
	tr := n.tree(t, "image/"+reg.Ref("app", "v1"))
	check(t, tr, map[string]string{"z": "tiny"})
	got := reg.Count(testreg.Match{Digest: added.Layers[0].Digest})
	if size := added.Layers[0].Size; got.Bytes > size/2 {
		t.Errorf("%d of %d bytes fetched for a tiny file", got.Bytes, size)
	}
	check(t, tr, map[string]string{"b": "b" + string(noise)})
}

func TestServedWithoutNetworkAfterRestart(t *testing.T) {
	reg := testreg.New(t)
	added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{
		lazyLayer(t, file{name: "lazy", body: big}), gzipLayer(t, file{name: "plain", body: "plain"}),
	}})
	want := map[string]string{"lazy": big, "plain": "plain"}
	dir := t.TempDir()
	n, stop := start(t, dir, 0)
	chain := addChain(t, n, reg.Ref("app", "v1"), added)
	tr, release, err := n.Open(t.Context(), "image/"+reg.Ref("app", "v1"))
	if err != nil {
		t.Fatal(err)
	}
	check(t, tr, want)
	release()
	stop()
	before := reg.Count(testreg.Match{})
	reg.Always(testreg.Match{}, testreg.Status(503))
	n, _ = start(t, dir, 0)
	for _, aname := range []string{"image/" + reg.Ref("app", "v1"), "image/" + added.Descriptor.Digest.String(), "chain/" + chain} {
		check(t, n.tree(t, aname), want)
	}
	reg.Heal()
	if after := reg.Count(testreg.Match{Path: "/blobs/"}); after.Bytes > before.Bytes {
		t.Errorf("blobs were fetched again: %+v, before %+v", after, before)
	}
}

// addChain adds an image's layers as the snapshotter does and returns the top
// chain ID.
func addChain(t testing.TB, n *node, ref string, added testreg.Added) string {
	t.Helper()
	parent := ""
	for i, l := range added.Layers {
		id := digest.FromString("chain" + l.Digest.String() + parent).String()
		info, err := n.AddLayer(t.Context(), image.LayerRequest{Ref: ref, Manifest: added.Descriptor.Digest.String(), Digest: l.Digest.String(), ChainID: id, Parent: parent})
		if err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
		if info.Size != l.Size || info.Files == 0 {
			t.Errorf("layer %d: %+v", i, info)
		}
		parent = id
	}
	return parent
}

func TestChains(t *testing.T) {
	reg := testreg.New(t)
	one := reg.AddImage("one", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, file{name: "a", body: "1"}), lazyLayer(t, file{name: "b", body: "2"})}})
	n, _ := start(t, t.TempDir(), 0)
	chain := addChain(t, n, reg.Ref("one", "v1"), one)
	check(t, n.tree(t, "chain/"+chain), map[string]string{"a": "1", "b": "2"})
	addChain(t, n, reg.Ref("one", "v1"), one) // again: nothing to do

	other := reg.AddImage("other", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, file{name: "evil", body: "3"})}})
	ctx := t.Context()
	bottom := digest.FromString("chain" + one.Layers[0].Digest.String()).String()
	for name, tt := range map[string]struct {
		req  image.LayerRequest
		kind fserr.Kind
	}{
		"another layer for a known chain": {image.LayerRequest{Ref: reg.Ref("other", "v1"), Digest: other.Layers[0].Digest.String(), ChainID: bottom}, fserr.Busy},
		"a layer of another image":        {image.LayerRequest{Ref: reg.Ref("one", "v1"), Digest: other.Layers[0].Digest.String(), ChainID: digest.FromString("x").String()}, fserr.NotExist},
		"no parent":                       {image.LayerRequest{Ref: reg.Ref("one", "v1"), Digest: one.Layers[1].Digest.String(), ChainID: digest.FromString("x").String(), Parent: digest.FromString("none").String()}, fserr.NotExist},
		"no such image":                   {image.LayerRequest{Ref: reg.Ref("none", "v1"), Digest: one.Layers[1].Digest.String(), ChainID: digest.FromString("x").String()}, fserr.NotExist},
		"malformed digest":                {image.LayerRequest{Ref: reg.Ref("one", "v1"), Digest: "sha256:../../x", ChainID: digest.FromString("x").String()}, fserr.Invalid},
		"malformed chain":                 {image.LayerRequest{Ref: reg.Ref("one", "v1"), Digest: one.Layers[1].Digest.String(), ChainID: "x"}, fserr.Invalid},
	} {
		if _, err := n.AddLayer(ctx, tt.req); !fserr.Is(err, tt.kind) {
			t.Errorf("%s: %v (%v), want %v", name, err, fserr.KindOf(err), tt.kind)
		}
	}
	if err := n.RemoveChain(ctx, chain); err != nil {
		t.Error(err)
	}
	if err := n.RemoveChain(ctx, chain); err != nil {
		t.Errorf("again: %v", err)
	}
	if _, _, err := n.Open(ctx, "chain/"+chain); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("a removed chain: %v", err)
	}
}

func TestUntrustedTOCIsNotBelieved(t *testing.T) {
	genuine := lazyLayer(t, file{name: "a", body: "genuine"})
	forged := lazyLayer(t, file{name: "a", body: "forged"})
	t.Run("TOC differs from the manifest's: read whole, by the blob's digest", func(t *testing.T) {
		reg := testreg.New(t)
		l := genuine
		l.Annotations = forged.Annotations
		reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{l}})
		n, _ := start(t, t.TempDir(), 0)
		check(t, n.tree(t, "image/"+reg.Ref("app", "v1")), map[string]string{"a": "genuine"})
		if l := n.Layers()[0]; l.Format != "gzip+index" || !strings.Contains(l.Reason, "TOC") {
			t.Errorf("%+v", l)
		}
	})
	t.Run("other bytes for the blob: refused", func(t *testing.T) {
		reg := testreg.New(t)
		added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{genuine}})
		reg.Always(testreg.Match{Digest: added.Layers[0].Digest}, testreg.WrongBytes())
		n, _ := start(t, t.TempDir(), 0)
		tr, release, err := n.Open(t.Context(), "image/"+reg.Ref("app", "v1"))
		if err == nil { // the wrong byte may lie in a file
			_, err = readFile(t.Context(), tr, "a")
			release()
		}
		if !fserr.Is(err, fserr.Corrupt) || !strings.Contains(err.Error(), added.Layers[0].Digest.String()) || !strings.Contains(err.Error(), reg.Ref("app", "v1")) {
			t.Errorf("%v", err)
		}
		reg.Heal()
		check(t, n.tree(t, "image/"+reg.Ref("app", "v1")), map[string]string{"a": "genuine"})
	})
	t.Run("plain layer with another diff ID: refused", func(t *testing.T) {
		reg := testreg.New(t)
		l := gzipLayer(t, file{name: "a", body: "x"})
		l.DiffID = digest.FromString("something else")
		reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{l}})
		n, _ := start(t, t.TempDir(), 0)
		if _, _, err := n.Open(t.Context(), "image/"+reg.Ref("app", "v1")); !fserr.Is(err, fserr.Corrupt) {
			t.Errorf("%v", err)
		}
	})
}

func TestSourceFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		fault testreg.Fault
		kind  fserr.Kind
	}{
		"404": {testreg.NotFound(), fserr.NotExist}, "401": {testreg.Status(401), fserr.Unauthorized},
		"500": {testreg.Status(500), fserr.Unavailable}, "reset": {testreg.Reset(3), fserr.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			reg := testreg.New(t)
			bad := reg.AddImage("bad", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, file{name: "a", body: "bad"})}})
			reg.AddImage("good", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, file{name: "a", body: "good"})}})
			reg.Always(testreg.Match{Digest: bad.Layers[0].Digest}, tt.fault)
			n, _ := start(t, t.TempDir(), 0)
			if _, _, err := n.Open(t.Context(), "image/"+reg.Ref("bad", "v1")); !fserr.Is(err, tt.kind) {
				t.Errorf("%v (%v)", err, fserr.KindOf(err))
			}
			check(t, n.tree(t, "image/"+reg.Ref("good", "v1")), map[string]string{"a": "good"})
		})
	}
}

func TestEvictedChunksComeBack(t *testing.T) {
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, file{name: "lazy", body: big}), gzipLayer(t, file{name: "plain", body: big + "!"})}})
	n, _ := start(t, t.TempDir(), 0)
	tr := n.tree(t, "image/"+reg.Ref("app", "v1"))
	want := map[string]string{"lazy": big, "plain": big + "!"}
	check(t, tr, want)
	if _, err := n.store.Evict(t.Context(), 1<<40); err != nil && !fserr.Is(err, fserr.NoSpace) {
		t.Fatal(err)
	}
	check(t, tr, want)
}

func TestDamagedIndexFilesAreMadeAnew(t *testing.T) {
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, file{name: "a", body: big}), gzipLayer(t, file{name: "b", body: "b"})}})
	dir := t.TempDir()
	n, stop := start(t, dir, 0)
	tr, release, err := n.Open(t.Context(), "image/"+reg.Ref("app", "v1"))
	if err != nil {
		t.Fatal(err)
	}
	check(t, tr, map[string]string{"a": big})
	release()
	stop()
	files, err := filepath.Glob(filepath.Join(dir, "index", "*", "*.idx"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)/2] ^= 0xff
		if err := os.WriteFile(f, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n, _ = start(t, dir, 0)
	check(t, n.tree(t, "image/"+reg.Ref("app", "v1")), map[string]string{"a": big, "b": "b"})
}

func TestUnfinishedIndexesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	_, stop := start(t, dir, 0)
	stop()
	left := []string{filepath.Join(dir, "index", "layers", ".nineply-index-1"), filepath.Join(dir, "index", "merged", ".nineply-index-2")}
	for _, path := range left {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, dir, 0)
	for _, path := range left {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestMovedTag(t *testing.T) {
	reg := testreg.New(t)
	first := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, file{name: "a", body: "old"})}})
	n, _ := start(t, t.TempDir(), 0)
	aname := "image/" + reg.Ref("app", "v1")
	canonical, err := n.Canonical(t.Context(), aname)
	if err != nil || canonical != "image/"+first.Descriptor.Digest.String() {
		t.Fatalf("%s, %v", canonical, err)
	}
	check(t, n.tree(t, aname), map[string]string{"a": "old"})
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, file{name: "a", body: "new"})}})
	check(t, n.tree(t, aname), map[string]string{"a": "new"})
	check(t, n.tree(t, canonical), map[string]string{"a": "old"})
}

func TestAttachNames(t *testing.T) {
	n, _ := start(t, t.TempDir(), 0)
	for aname, kind := range map[string]fserr.Kind{
		"": fserr.NotExist, "nothing": fserr.NotExist, "image/": fserr.Invalid, "image/UPPER CASE": fserr.Invalid,
		"layer/sha256:zz": fserr.Invalid, "layer/" + digest.FromString("x").String(): fserr.NotExist,
		"chain/" + digest.FromString("x").String(): fserr.NotExist, "image/" + digest.FromString("x").String(): fserr.NotExist,
	} {
		if _, _, err := n.Open(t.Context(), aname); !fserr.Is(err, kind) {
			t.Errorf("%q: %v (%v), want %v", aname, err, fserr.KindOf(err), kind)
		}
	}
}

func TestTryReadAt(t *testing.T) {
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, file{name: "d/"}, file{name: "d/a", body: big})}})
	n, _ := start(t, t.TempDir(), 0)
	tr := n.tree(t, "image/"+reg.Ref("app", "v1"))
	dir, err := tr.Lookup(tr.Root(), []byte("d"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := tr.Lookup(dir, []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	if _, ok, err := tr.TryReadAt(a, p, 0); ok || err != nil {
		t.Errorf("before anything was fetched: %v, %v", ok, err)
	}
	if _, err := tr.ReadAt(t.Context(), a, p, 0); err != nil {
		t.Fatal(err)
	}
	check(t, tr, map[string]string{"d/a": big})
	for off := int64(0); off < int64(len(big)); off += 1 << 19 { // chunks are stored after they were served
		for ok := false; !ok; runtime.Gosched() {
			if _, ok, err = tr.TryReadAt(a, p, off); err != nil {
				t.Fatal(err)
			}
		}
	}
	if m, ok, err := tr.TryReadAt(a, p, int64(len(big))-100); !ok || err != nil || m != 100 || string(p[:m]) != big[len(big)-100:] {
		t.Errorf("at the end: %d, %v, %v", m, ok, err)
	}
	if m, ok, err := tr.TryReadAt(a, p, int64(len(big))); !ok || err != nil || m != 0 {
		t.Errorf("past the end: %d, %v, %v", m, ok, err)
	}
	if _, ok, err := tr.TryReadAt(dir, p, 0); !ok || !fserr.Is(err, fserr.IsDir) {
		t.Errorf("a directory: %v, %v", ok, err)
	}
	if _, ok, err := tr.TryReadAt(a, p, -1); !ok || !fserr.Is(err, fserr.Invalid) {
		t.Errorf("negative offset: %v, %v", ok, err)
	}
	allocs := testing.AllocsPerRun(100, func() {
		if _, ok, err := tr.TryReadAt(a, p, 1<<20-100); !ok || err != nil {
			t.Fatal(ok, err)
		}
	})
	if allocs != 0 && !raceEnabled {
		t.Errorf("%v allocations for a read across two cached chunks", allocs)
	}
}

func TestReadGivesUpWithItsContext(t *testing.T) {
	reg := testreg.New(t)
	added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, file{name: "a", body: big})}})
	n, _ := start(t, t.TempDir(), 0)
	tr := n.tree(t, "image/"+reg.Ref("app", "v1"))
	reg.Always(testreg.Match{Digest: added.Layers[0].Digest}, testreg.Stall(0))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := readFile(ctx, tr, "a")
		done <- err
	}()
	cancel()
	if err := <-done; !fserr.Is(err, fserr.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestInspect(t *testing.T) {
	reg := testreg.New(t)
	added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{
		lazyLayer(t, file{name: "a", body: big}, file{name: "d/"}, file{name: "l", link: "a"}), gzipLayer(t, file{name: "b", body: "b"}),
	}})
	r := registry.New(registry.Options{})
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	got, err := image.Inspect(t.Context(), r, reg.Ref("app", "v1"), ocispec.Platform{})
	if err != nil {
		t.Fatal(err)
	}
	lazy, plain := got.Layers[0], got.Layers[1]
	if got.Lazy || got.Digest != added.Descriptor.Digest.String() || got.Platform != "linux/amd64" {
		t.Errorf("%+v", got)
	}
	if !lazy.Lazy || lazy.Files != 1 || lazy.Entries != 3 || lazy.Chunks != 4 || lazy.Content != int64(len(big)) || lazy.Landmark != "none" || lazy.TOCSize == 0 {
		t.Errorf("%+v", lazy)
	}
	if plain.Lazy || plain.Reason == "" {
		t.Errorf("%+v", plain)
	}
	if _, err := image.Inspect(t.Context(), r, reg.Ref("none", "v1"), ocispec.Platform{}); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("%v", err)
	}
}
