package e2e_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// variant is an image of the corpus: what one of the writers of the conformance
// module, or one of Debian's tools, makes of the source.
type variant struct {
	name string
	lazy string // the format in which it is lazy from the start, "" if in none
}

// indexed are the formats in which a layer without a TOC is lazy once it was read
// whole, by variant. What is in none of them has to be read whole every time.
var indexed = map[string]string{
	"gzip": "gzip+index", "gzip-members": "gzip+index", "pigz": "gzip+index", "pigz-independent": "gzip+index", "tar": "tar+index",
}

// corpus is an OCI layout with one image for each variant, kept from run to run.
type corpus struct {
	dir      string
	variants []variant
}

// newCorpus has the conformance module write an image again in every format.
func newCorpus(t *testing.T, args ...string) *corpus {
	t.Helper()
	program := filepath.Join(programs, "corpus")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", program, "./cmd/corpus")
	build.Dir, build.Env = "conformance", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	code, err := os.ReadFile(program)
	must(t, err)
	cache, err := demoimage.CacheDir()
	must(t, err)
	name := "corpus-" + args[len(args)-1]
	c := &corpus{dir: filepath.Join(cache, fmt.Sprintf("%s-%.6x", name, sha256.Sum256(append(code, strings.Join(args, " ")...))))}
	for line := range strings.Lines(harness.Run(t, program)) {
		fields := strings.Split(line, "\t")
		c.variants = append(c.variants, variant{fields[0], strings.TrimPrefix(fields[1], "-")})
	}
	if _, err := os.Stat(c.dir); err == nil {
		return c
	}
	old, err := filepath.Glob(filepath.Join(cache, name+"-*"))
	must(t, err)
	for _, dir := range old {
		must(t, os.RemoveAll(dir))
	}
	work := c.dir + ".tmp"
	harness.Run(t, slices.Concat([]string{program}, args, []string{work})...)
	must(t, os.Rename(work, c.dir))
	return c
}

// reference lists what extraction of the source shows.
func (c *corpus) reference(t *testing.T) []treesum.Node {
	t.Helper()
	im := &demoimage.Image{Dir: c.dir}
	for _, d := range layoutLayers(t, c.dir, "gzip") {
		im.Layers = append(im.Layers, demoimage.Layer{Path: blobPath(c.dir, d)})
	}
	return reference(t, im)
}

// layoutLayers lists the digests of the layers of an image in a layout.
func layoutLayers(t *testing.T, dir, tag string) []string {
	t.Helper()
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	must(t, readJSON(filepath.Join(dir, "index.json"), &index))
	for _, m := range index.Manifests {
		if m.Annotations["org.opencontainers.image.ref.name"] != tag {
			continue
		}
		var manifest struct{ Layers []struct{ Digest string } }
		must(t, readJSON(blobPath(dir, m.Digest), &manifest))
		var digests []string
		for _, l := range manifest.Layers {
			digests = append(digests, l.Digest)
		}
		return digests
	}
	t.Fatalf("%s has no %s", dir, tag)
	return nil
}

// TestForeignFormats: an image reads the same whoever wrote its layers. What has
// a table of contents is lazy at once; gzip and plain tar are lazy from the
// second time on, by the index that the first time left.
func TestForeignFormats(t *testing.T) {
	start(t)
	for name, args := range map[string][]string{
		"special": {"small"},
		"python":  {"-layer", "1", "demo"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCorpus(t, args...)
			s := &site{registry: harness.StartRegistry(t)}
			s.proxy = harness.StartProxy(t, s.registry.Addr, harness.Shape{})
			want := c.reference(t)
			c.push(t, s)
			for _, v := range append(c.variants, c.debianVariants(t, s)...) {
				t.Run(v.name, func(t *testing.T) {
					f := foreign{site: s, v: v, want: want, whole: name == "special"}
					f.run(t)
				})
			}
		})
	}
}

// push copies all images of the corpus to the registry, TOC images beside
// theirs.
func (c *corpus) push(t *testing.T, s *site) {
	t.Helper()
	for _, v := range c.variants {
		to := "docker://" + s.registry.Addr + "/" + v.name + ":latest"
		harness.Run(t, "skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false", "oci:"+c.dir+":"+v.name, to)
		if strings.HasPrefix(v.name, "external") {
			harness.Run(t, "skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
				"oci:"+c.dir+":"+v.name+"-esgztoc", to+"-esgztoc")
		}
	}
}

// debianVariants has Debian's tools convert the image in the registry.
func (c *corpus) debianVariants(t *testing.T, s *site) []variant {
	t.Helper()
	// By way of a directory: a registry that has the gzip layer is not sent another.
	dir := "dir:" + t.TempDir()
	harness.Run(t, "skopeo", "--insecure-policy", "copy", "--quiet", "--dest-compress", "--dest-compress-format", "zstd:chunked", "oci:"+c.dir+":gzip", dir)
	harness.Run(t, "skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false", dir, "docker://"+s.registry.Addr+"/skopeo:latest")
	cd := harness.StartContainerd1(t, nil, s.registry.Addr)
	src := s.registry.Addr + "/gzip:latest"
	cd.Ctr(t, "content", "fetch", "--plain-http", src)
	for _, format := range []string{"estargz", "zstdchunked"} {
		dst := s.registry.Addr + "/ctr-remote-" + format + ":latest"
		harness.Run(t, "ctr-remote", "--address", cd.Address, "--namespace", cd.Namespace,
			"images", "convert", "--"+format, "--oci", src, dst)
		cd.Ctr(t, "images", "push", "--plain-http", dst)
	}
	return []variant{{"skopeo", "zstd:chunked"}, {"ctr-remote-estargz", "estargz"}, {"ctr-remote-zstdchunked", "zstd:chunked"}}
}

// foreign is the test of one variant.
type foreign struct {
	site  *site
	v     variant
	want  []treesum.Node
	whole bool // the image is too small for shares of it to mean anything
}

func (f *foreign) run(t *testing.T) {
	nineply(t, "verify", f.site.registry.Addr+"/"+f.v.name+":latest")
	f.site.proxy.Reset()
	// A profile would bring back what the first of the two mounts read.
	daemon := f.site.daemon(t, "[profiles]\nuse = false\n")
	dir := daemon.Mount(t, f.site.ref(f.v.name))
	if f.v.lazy != "" {
		f.isLazy(t, daemon, dir, f.v.lazy)
		f.isSame(t, dir)
		return
	}
	f.isSame(t, dir)
	if indexed[f.v.name] == "" {
		for _, l := range layers(t, daemon) {
			if l.Lazy || l.Reason == "" {
				t.Errorf("it claims to be lazy: %+v", l)
			}
		}
		return
	}
	daemon.CLI(t, "umount", dir)
	daemon.Stop(t)
	emptyCache(t, daemon)
	f.site.proxy.Reset()
	daemon.Start(t)
	dir = daemon.Mount(t, f.site.ref(f.v.name))
	f.isLazy(t, daemon, dir, indexed[f.v.name])
	f.isSame(t, dir)
}

// layers are those that the daemon has open.
func layers(t *testing.T, d *harness.Daemon) []control.LayerStatus {
	t.Helper()
	found := status(t, d).Layers
	if len(found) == 0 {
		t.Error("the daemon has no layer open")
	}
	return found
}

// emptyCache removes the file contents that a stopped daemon has kept.
func emptyCache(t *testing.T, d *harness.Daemon) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(d.Dir, "root/chunks/segments/*.seg"))
	must(t, err)
	if len(segments) == 0 {
		t.Fatal("there is no cache to empty")
	}
	for _, s := range segments {
		must(t, os.Remove(s))
	}
}

// isLazy reads one small file and looks at what was fetched for it, the table of
// contents included.
func (f *foreign) isLazy(t *testing.T, d *harness.Daemon, dir, format string) {
	t.Helper()
	var total int64
	for _, l := range layers(t, d) {
		if !l.Lazy || l.Format != format {
			t.Errorf("lazy %v as %s, not as %s: %+v", l.Lazy, l.Format, format, l)
		}
		total += l.Size
	}
	i := slices.IndexFunc(f.want, func(n treesum.Node) bool { return n.Sum != "" && n.Size > 100 && n.Size < 10_000 })
	got, err := treesum.Stat(filepath.Join(dir, f.want[i].Path), treesum.Options{})
	must(t, err)
	if got.Sum != f.want[i].Sum {
		t.Errorf("%s differs", f.want[i].Path)
	}
	fetched := f.site.proxy.Counts().BlobBytes()
	t.Logf("%d of %d bytes fetched for %d", fetched, total, got.Size)
	if fetched == 0 || fetched > total/4 && !f.whole {
		t.Errorf("%d of %d bytes fetched for a file of %d", fetched, total, got.Size)
	}
}

func (f *foreign) isSame(t *testing.T, dir string) {
	t.Helper()
	got, err := treesum.Walk(dir, treesum.Options{})
	must(t, err)
	same(t, f.want, got, treesum.Compare{})
}
