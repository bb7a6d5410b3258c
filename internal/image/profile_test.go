package image_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/profile"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// profiled is a node that does with profiles what it is told to.
type profiled struct {
	*node
	sched *fetch.Scheduler
	stop  func()
}

func startProfiled(t testing.TB, dir string, what image.Profiles) *profiled {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	store, err := chunkstore.Open(ctx, chunkstore.Options{Dir: filepath.Join(dir, "chunks")})
	if err != nil {
		t.Fatal(err)
	}
	reg := registry.New(registry.Options{Attempts: 2, BackoffInitial: time.Millisecond, BackoffMax: time.Millisecond, StallTimeout: 30 * time.Second})
	sched := fetch.New(ctx, store, fetch.Options{})
	c, err := image.New(ctx, image.Options{
		Dir: filepath.Join(dir, "index"), Source: source.Mux{Registry: reg}, Store: store, Records: store.Records(),
		Scheduler: sched, Profiles: what, Prefetch: true, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &profiled{sched: sched, node: &node{c, store, dir}}
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		sched.Close()
		for _, err := range []error{c.Close(), reg.Close(), store.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(p.stop)
	return p
}

// program is an image of two lazy layers and a plain one, and what a program reads
// of it.
type program struct {
	*testreg.Registry
	layers []testreg.Layer
	added  testreg.Added
	body   map[string]string
	reads  []string
}

func newProgram(t testing.TB) *program {
	t.Helper()
	p := &program{Registry: testreg.New(t), body: map[string]string{}}
	layer := func(name string, n int) []file {
		files := []file{{name: name + "/"}}
		for i := range n {
			path := fmt.Sprintf("%s/%03d", name, i)
			p.body[path] = path + random(path, 30_000)
			files = append(files, file{name: path, body: p.body[path]})
		}
		return files
	}
	p.layers = []testreg.Layer{lazyLayer(t, layer("a", 100)...), gzipLayer(t, layer("b", 3)...), lazyLayer(t, layer("c", 100)...)}
	p.added = p.AddImage("app", "v1", testreg.Image{Layers: p.layers})
	for _, i := range []int{70, 71, 72, 73, 10, 11, 12} {
		p.reads = append(p.reads, fmt.Sprintf("c/%03d", i), fmt.Sprintf("a/%03d", i))
	}
	return p
}

// random is text that does not compress to less than three quarters.
func random(seed string, n int) string {
	rng := rand.NewChaCha8(estargz.Sum([]byte(seed)))
	text := make([]byte, n)
	for i := range text {
		text[i] = byte(rng.Uint64()&63) + '0'
	}
	return string(text)
}

func (p *program) ref() string   { return p.Ref("app", "v1") }
func (p *program) aname() string { return "image/" + p.ref() }

// run attaches, reads what the program reads, and releases.
func (p *program) run(t testing.TB, n *profiled, aname string) {
	t.Helper()
	tr, release, err := n.Open(t.Context(), aname)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, path := range p.reads {
		if got, err := readFile(t.Context(), tr, path); err != nil || got != p.body[path] {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
}

// learn records one run on a node of its own and gives the file of the profile.
func (p *program) learn(t testing.TB) []byte {
	t.Helper()
	n := startProfiled(t, t.TempDir(), image.Profiles{Record: true})
	defer n.stop()
	p.run(t, n, p.aname())
	return n.profileFile(t, p.ref())
}

// profileFile gives the file of a profile once it is kept.
func (n *profiled) profileFile(t testing.TB, ref string) []byte {
	t.Helper()
	n.waitRuns(1)
	got, _, err := n.Profile(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	data, err := profile.Encode(got)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (n *profiled) waitRuns(runs int64) {
	for n.ProfileStats().Runs < runs {
		runtime.Gosched()
	}
}

func TestProfileIsRecordedAndUsed(t *testing.T) {
	p := newProgram(t)
	data := p.learn(t)
	n := startProfiled(t, t.TempDir(), image.Profiles{Record: true, Use: true})
	info, err := n.ImportProfile(t.Context(), data, "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	if info.Manifest != p.added.Descriptor.Digest.String() || info.Origin != "elsewhere" || info.Chunks != 14 || info.Bytes < 14*30_000 {
		t.Errorf("imported %+v", info)
	}
	lazy := func() (c testreg.Traffic) {
		for _, i := range []int{0, 2} {
			got := p.Count(testreg.Match{Digest: p.added.Layers[i].Digest})
			c.Requests += got.Requests
			c.Bytes += got.Bytes
		}
		return c
	}
	before := lazy()
	tr, release, err := n.Open(t.Context(), p.aname())
	if err != nil {
		t.Fatal(err)
	}
	st := n.ProfileStats()
	if st.Applied != 1 || st.Requests != 4 || st.Bytes < 14*20_000 {
		t.Errorf("applied: %+v", st)
	}
	for n.local() < 14 {
		runtime.Gosched()
	}
	for _, path := range p.reads[:12] {
		if got, err := readFile(t.Context(), tr, path); err != nil || got != p.body[path] {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
	after := lazy()
	if got := after.Requests - before.Requests; got > 2+4 { // a TOC for each layer
		t.Errorf("%d requests", got)
	}
	release()
	n.waitRuns(1)
	st = n.ProfileStats()
	if st.Missed != 0 || st.Late != 0 || st.Unread < 2*20_000 || st.Unread > 3*31_000 {
		t.Errorf("after all but two files were read: %+v", st)
	}
	if _, info, err = n.Profile(t.Context(), p.ref()); err != nil || info.Runs != 2 || info.Chunks != 14 {
		t.Errorf("profile %+v, %v", info, err)
	}
}

// local counts the chunks of lazy layers that are in the store.
func (n *profiled) local() (local int) {
	for _, l := range n.Layers() {
		if l.Format == "estargz" {
			local += l.Local
		}
	}
	return local
}

// TestProfileUsedAtOnce reads while what the profile names is on its way.
func TestProfileUsedAtOnce(t *testing.T) {
	p := newProgram(t)
	data := p.learn(t)
	n := startProfiled(t, t.TempDir(), image.Profiles{Use: true})
	if _, err := n.ImportProfile(t.Context(), data, ""); err != nil {
		t.Fatal(err)
	}
	p.run(t, n, p.aname())
	if st := n.ProfileStats(); st.Missed != 0 || st.Unread != 0 || st.Runs != 0 {
		t.Errorf("%+v", st)
	}
	p.run(t, n, p.aname())
	if st := n.ProfileStats(); st.Applied != 1 || st.Requests != 4 {
		t.Errorf("an attach with everything local: %+v", st)
	}
}

func TestProfileOfChain(t *testing.T) {
	p := newProgram(t)
	n := startProfiled(t, t.TempDir(), image.Profiles{Record: true, Use: true})
	chain := addChain(t, n.node, p.ref(), p.added)
	p.run(t, n, "chain/"+chain)
	n.waitRuns(1)
	if _, info, err := n.Profile(t.Context(), p.added.Descriptor.Digest.String()); err != nil || info.Runs != 1 || info.Ref == "" {
		t.Errorf("profile %+v, %v", info, err)
	}
	// The layer by itself is no image.
	tr, release, err := n.Open(t.Context(), "layer/"+p.added.Layers[0].Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	check(t, tr, map[string]string{"a/001": p.body["a/001"]})
	release()
	if list, err := n.Profiles(t.Context()); err != nil || len(list) != 1 || list[0].Runs != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestProfileUsedAtPull has what the profile names fetched before the image is
// attached, and once.
func TestProfileUsedAtPull(t *testing.T) {
	p := newProgram(t)
	data := p.learn(t)
	n := startProfiled(t, t.TempDir(), image.Profiles{Use: true})
	if _, err := n.ImportProfile(t.Context(), data, ""); err != nil {
		t.Fatal(err)
	}
	chain := addChain(t, n.node, p.ref(), p.added)
	for n.local() < 14 {
		runtime.Gosched()
	}
	p.run(t, n, "chain/"+chain)
	if st := n.ProfileStats(); st.Applied != 1 || st.Requests != 4 || st.Missed+st.Late != 0 || st.Unread != 0 {
		t.Errorf("%+v", st)
	}
}

func TestProfileOffKeepsNothing(t *testing.T) {
	p := newProgram(t)
	n := startProfiled(t, t.TempDir(), image.Profiles{})
	p.run(t, n, p.aname())
	n.stop()
	n = startProfiled(t, n.dir, image.Profiles{Record: true})
	if list, err := n.Profiles(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestProfileKeptAtStop stops a node in the middle of a start.
func TestProfileKeptAtStop(t *testing.T) {
	p := newProgram(t)
	n := startProfiled(t, t.TempDir(), image.Profiles{Record: true})
	tr, _, err := n.Open(t.Context(), p.aname())
	if err != nil {
		t.Fatal(err)
	}
	check(t, tr, map[string]string{"c/003": p.body["c/003"]})
	n.stop()
	n = startProfiled(t, n.dir, image.Profiles{})
	if list, err := n.Profiles(t.Context()); err != nil || len(list) != 1 || list[0].Chunks != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestProfileKeptInUse has a container run on when its start is over.
func TestProfileKeptInUse(t *testing.T) {
	p := newProgram(t)
	n := startProfiled(t, t.TempDir(), image.Profiles{Record: true})
	n.EndStartsAfter(20 * time.Millisecond)
	tr := n.tree(t, p.aname())
	check(t, tr, map[string]string{"c/003": p.body["c/003"]})
	n.waitRuns(1)
	check(t, tr, map[string]string{"c/004": p.body["c/004"]})
	if list, err := n.Profiles(t.Context()); err != nil || len(list) != 1 || list[0].Chunks != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestProfilesAreBounded(t *testing.T) {
	p := newProgram(t)
	data := p.learn(t)
	n := startProfiled(t, t.TempDir(), image.Profiles{})
	n.LimitProfiles(3)
	got, err := profile.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		got.Manifest = estargz.Sum([]byte{byte(i)})
		data, err := profile.Encode(got)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.ImportProfile(t.Context(), data, ""); err != nil {
			t.Fatal(err)
		}
	}
	list, err := n.Profiles(t.Context())
	if err != nil || len(list) != 3 {
		t.Errorf("%d profiles, %v", len(list), err)
	}
	if err := n.RemoveProfile(t.Context(), got.Manifest.String()); err != nil {
		t.Error(err)
	}
	if err := n.RemoveProfile(t.Context(), got.Manifest.String()); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("removing it again: %v", err)
	}
	for _, bad := range [][]byte{nil, data[:100]} {
		if _, err := n.ImportProfile(t.Context(), bad, ""); !fserr.Is(err, fserr.Corrupt) {
			t.Errorf("importing %d bytes: %v", len(bad), err)
		}
	}
}

func TestProfileFilesAndRecords(t *testing.T) {
	p := newProgram(t)
	n := startProfiled(t, t.TempDir(), image.Profiles{Record: true})
	p.run(t, n, p.aname())
	n.waitRuns(1)
	files, err := n.ProfileFiles(t.Context(), p.ref())
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range files {
		paths = append(paths, f.Path)
		if f.Chunks != 1 || f.Runs != 1 || !f.Usual || f.Bytes < 30_000 || f.Layer != map[byte]int{'a': 0, 'c': 2}[f.Path[0]] {
			t.Errorf("%+v", f)
		}
	}
	if diff := cmp.Diff(p.reads, paths); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	records, err := n.ProfileRecords(t.Context(), p.ref())
	if err != nil {
		t.Fatal(err)
	}
	other := startProfiled(t, t.TempDir(), image.Profiles{Record: true})
	more := append(records, profile.Record{Path: "not/there"}, profile.Record{Path: "b/001"}, profile.Record{Path: "a"}, profile.Record{Path: "a/099", ManifestDigest: "sha256:other"})
	if _, err := other.ImportRecords(t.Context(), p.ref(), more); err != nil {
		t.Fatal(err)
	}
	again, err := other.ProfileRecords(t.Context(), p.ref())
	one := 1
	want := append(records, profile.Record{Path: "b/001", LayerIndex: &one, ManifestDigest: p.added.Descriptor.Digest.String()})
	if diff := cmp.Diff(want, again); diff != "" || err != nil {
		t.Errorf("%v: records (-want +got):\n%s", err, diff)
	}
	if _, err := other.ImportRecords(t.Context(), p.ref(), []profile.Record{{Path: "not/there"}}); !fserr.Is(err, fserr.Invalid) {
		t.Errorf("importing nothing: %v", err)
	}
}

func TestPushAndPullProfile(t *testing.T) {
	for _, tag := range []bool{false, true} {
		t.Run(fmt.Sprintf("by tag %v", tag), func(t *testing.T) {
			p := newProgram(t)
			if tag {
				p.Always(testreg.Match{Path: "/referrers/"}, func(x testreg.Exchange) { x.W.WriteHeader(http.StatusNotFound) })
			}
			first := startProfiled(t, t.TempDir(), image.Profiles{Record: true})
			if _, err := first.PushProfile(t.Context(), p.ref()); !fserr.Is(err, fserr.NotExist) {
				t.Errorf("pushing what is not there: %v", err)
			}
			if _, err := first.PullProfile(t.Context(), p.ref(), ""); !fserr.Is(err, fserr.NotExist) {
				t.Errorf("pulling what is not there: %v", err)
			}
			p.run(t, first, p.aname())
			first.waitRuns(1)
			out, err := first.PushProfile(t.Context(), p.ref())
			if err != nil {
				t.Fatal(err)
			}
			want, _, err := first.Profile(t.Context(), p.ref())
			if err != nil {
				t.Fatal(err)
			}

			by := startProfiled(t, t.TempDir(), image.Profiles{})
			for _, d := range []string{"", out.Digest} {
				if info, err := by.PullProfile(t.Context(), p.ref(), d); err != nil || info.Origin != "pulled: "+out.Digest {
					t.Errorf("pulled %q: %+v, %v", d, info, err)
				}
			}
			got, _, err := by.Profile(t.Context(), p.ref())
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
				t.Errorf("%v: (-want +got):\n%s", err, diff)
			}

			finds := startProfiled(t, t.TempDir(), image.Profiles{Use: true, Referrers: true})
			p.run(t, finds, p.aname())
			if st := finds.ProfileStats(); st.Applied != 1 || st.Missed != 0 {
				t.Errorf("found beside the image: %+v", st)
			}
			ignores := startProfiled(t, t.TempDir(), image.Profiles{Use: true})
			p.run(t, ignores, p.aname())
			if st := ignores.ProfileStats(); st.Applied != 0 {
				t.Errorf("not to be looked for: %+v", st)
			}
		})
	}
}

// TestPullProfileOfAnotherImage has what refers to the image be about another.
func TestPullProfileOfAnotherImage(t *testing.T) {
	p := newProgram(t)
	other := p.AddImage("app", "v2", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, file{name: "x", body: "x"})}})
	n := startProfiled(t, t.TempDir(), image.Profiles{Record: true})
	tr, release, err := n.Open(t.Context(), "image/"+p.Ref("app", "v2"))
	if err != nil {
		t.Fatal(err)
	}
	check(t, tr, map[string]string{"x": "x"})
	release()
	n.waitRuns(1)
	out, err := n.PushProfile(t.Context(), p.Ref("app", "v2"))
	if err != nil {
		t.Fatal(err)
	}
	if out.Manifest != other.Descriptor.Digest.String() {
		t.Errorf("pushed %+v", out)
	}
	for _, d := range []string{out.Digest, p.added.Descriptor.Digest.String(), digest.FromString("x").String(), "x"} {
		if _, err := n.PullProfile(t.Context(), p.ref(), d); err == nil {
			t.Errorf("pulled %s", d)
		}
	}
}

// BenchmarkRecordedRead is a read from the cache while a start is recorded.
func BenchmarkRecordedRead(b *testing.B) {
	for _, record := range []bool{false, true} {
		b.Run(fmt.Sprintf("record=%v", record), func(b *testing.B) {
			p := newProgram(b)
			n := startProfiled(b, b.TempDir(), image.Profiles{Record: record})
			n.EndStartsAfter(time.Hour)
			tr := n.tree(b, p.aname())
			if _, err := readFile(b.Context(), tr, "c/003"); err != nil {
				b.Fatal(err)
			}
			dir, err := tr.Lookup(tr.Root(), []byte("c"))
			if err != nil {
				b.Fatal(err)
			}
			f, err := tr.Lookup(dir, []byte("003"))
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				if _, ok, err := tr.TryReadAt(f, buf, 0); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
