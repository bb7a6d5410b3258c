package e2e_test

import (
	"bytes"
	"encoding/json"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/demoimage/treesum"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/registry"
)

// sharing is a registry with an image of plain tar.gz layers, for several nodes.
type sharing struct {
	*site
	want []treesum.Node
}

func newSharing(t *testing.T) *sharing {
	t.Helper()
	im := debian(t)
	s := &sharing{site: &site{registry: harness.StartRegistry(t), image: im}, want: reference(t, im)}
	s.registry.Push(t, im, "plain")
	s.proxy = harness.StartProxy(t, s.registry.Addr, harness.Shape{})
	return s
}

// readsLittle mounts the image on a fresh node, reads one small file and looks at
// what was fetched for it, indexes included; then it compares the whole tree.
func (s *sharing) readsLittle(t *testing.T, d *harness.Daemon, origin string) {
	t.Helper()
	dir := d.Mount(t, s.ref("plain"))
	i := slices.IndexFunc(s.want, func(n treesum.Node) bool { return n.Sum != "" && n.Size > 100 && n.Size < 10_000 })
	got, err := treesum.Stat(filepath.Join(dir, s.want[i].Path), treesum.Options{})
	must(t, err)
	if got.Sum != s.want[i].Sum {
		t.Errorf("%s differs", s.want[i].Path)
	}
	var total int64
	for _, l := range layers(t, d) {
		total += l.Size
		if !l.Lazy || l.Format != "gzip+index" || !strings.Contains(l.Origin, origin) {
			t.Errorf("not by index %s: %+v", origin, l)
		}
	}
	fetched := s.proxy.Counts().BlobBytes()
	t.Logf("%d of %d bytes fetched for a file of %d", fetched, total, got.Size)
	if fetched == 0 || fetched > total/8 {
		t.Errorf("%d of %d bytes fetched for a file of %d", fetched, total, got.Size)
	}
	nodes, err := treesum.Walk(dir, treesum.Options{})
	must(t, err)
	same(t, s.want, nodes, treesum.Compare{})
}

// TestIndexIsShared: a node that had to read an image whole makes it lazy for the
// others, through a registry that knows nothing of referrers.
func TestIndexIsShared(t *testing.T) {
	start(t)
	s := newSharing(t)
	first := s.daemon(t, "")
	first.Mount(t, s.ref("plain"))
	var pushed control.PublishedIndex
	must(t, json.Unmarshal([]byte(first.CLI(t, "index", "push", s.ref("plain"), "--json")), &pushed))
	t.Logf("index %s, %d bytes for layers of %d", pushed.Digest, pushed.Size, sizes(layers(t, first)))
	if !strings.HasPrefix(pushed.Digest, "sha256:") || len(pushed.Layers) == 0 || pushed.Size > sizes(layers(t, first))/20 {
		t.Errorf("pushed %+v", pushed)
	}
	first.Stop(t)

	t.Run("referrers", func(t *testing.T) {
		d := s.daemon(t, "[index]\nreferrers = true\n")
		s.proxy.Reset()
		s.readsLittle(t, d, pushed.Digest)
	})
	t.Run("pin", func(t *testing.T) {
		d := s.daemon(t, "[index]\npins = ['"+pushed.Digest+"']\n")
		s.proxy.Reset()
		s.readsLittle(t, d, pushed.Digest)
	})
	t.Run("pull", func(t *testing.T) {
		d := s.daemon(t, "")
		s.proxy.Reset()
		if out := d.CLI(t, "index", "pull", s.ref("plain")); !strings.HasPrefix(out, pushed.Digest+"\n") {
			t.Errorf("pull says %q", out)
		}
		if out := d.CLI(t, "index", "ls", s.ref("plain")); !strings.Contains(out, pushed.Digest) {
			t.Errorf("ls says %q", out)
		}
		s.readsLittle(t, d, pushed.Digest)
		if _, err := d.Try(t, "index", "rm", s.ref("plain")); err == nil {
			t.Error("an index in use was removed")
		}
	})
	t.Run("not trusted", func(t *testing.T) {
		d := s.daemon(t, "")
		d.Mount(t, s.ref("plain"))
		for _, l := range layers(t, d) {
			if l.Origin != "" || l.Reason == "" {
				t.Errorf("it was used without being allowed: %+v", l)
			}
		}
	})
}

// TestDamagedIndex: an index that is not what it was when it was pushed is refused,
// even by who pinned it, and the image is read right without it.
func TestDamagedIndex(t *testing.T) {
	start(t)
	im := small(t)
	s := &sharing{site: &site{registry: harness.StartRegistry(t), image: im}, want: reference(t, im)}
	s.registry.Push(t, im, "plain")
	s.proxy = harness.StartProxy(t, s.registry.Addr, harness.Shape{})
	first := s.daemon(t, "")
	var pushed control.PublishedIndex
	must(t, json.Unmarshal([]byte(first.CLI(t, "index", "push", s.ref("plain"), "--json")), &pushed))
	damaged := s.damage(t, pushed)
	d := s.daemon(t, "[index]\npins = ['"+damaged+"']\n")
	if out, err := d.Try(t, "index", "pull", s.ref("plain"), "--digest", damaged); err == nil {
		t.Errorf("it was pulled: %s", out)
	}
	dir := d.Mount(t, s.ref("plain"))
	reasons := 0
	for _, l := range layers(t, d) {
		if l.Origin != "" {
			t.Errorf("it was used: %+v", l)
		}
		if strings.Contains(l.Reason, damaged) {
			reasons++
		}
	}
	if reasons == 0 {
		t.Errorf("no layer says why it was read whole: %+v", layers(t, d))
	}
	nodes, err := treesum.Walk(dir, treesum.Options{})
	must(t, err)
	same(t, s.want, nodes, treesum.Compare{})
}

// damage pushes an index again with a byte changed in each of its parts, and gives its
// digest.
func (s *sharing) damage(t *testing.T, pushed control.PublishedIndex) string {
	t.Helper()
	reg := registry.New(registry.Options{})
	defer func() { must(t, reg.Close()) }()
	ref := s.registry.Addr + "/plain@" + pushed.Digest
	_, data, err := reg.FetchManifest(t.Context(), ref)
	must(t, err)
	var m ocispec.Manifest
	must(t, json.Unmarshal(data, &m))
	p, err := reg.Pusher(t.Context(), ref)
	must(t, err)
	for i, l := range m.Layers {
		blob, err := reg.Blob(t.Context(), ref, l)
		must(t, err)
		packed := make([]byte, l.Size)
		must(t, blob.ReadRange(t.Context(), 0, packed))
		packed[len(packed)/2] ^= 1
		m.Layers[i].Digest = digest.FromBytes(packed)
		must(t, p.PushBlob(t.Context(), m.Layers[i], func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed)), nil }))
	}
	data, err = json.Marshal(m)
	must(t, err)
	desc, err := p.PushManifest(t.Context(), "", m.MediaType, data)
	must(t, err)
	desc.ArtifactType = m.ArtifactType
	must(t, source.AddReferrer(t.Context(), reg, p, ref, m.Subject.Digest, desc))
	return desc.Digest.String()
}

func sizes(layers []control.LayerStatus) int64 {
	var n int64
	for _, l := range layers {
		n += l.Size
	}
	return n
}
