package registry_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source/hosts"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
)

// configure writes a hosts.toml for a registry and gives the options to use it.
func configure(t *testing.T, opts registry.Options, host, file string) registry.Options {
	t.Helper()
	if len(opts.Hosts.Dirs) == 0 {
		opts.Hosts = hosts.Config{Dirs: []string{t.TempDir()}}
	}
	dir := filepath.Join(opts.Hosts.Dirs[0], host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "hosts.toml"), file)
	return opts
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// secureFixture is a fixture with TLS whose certificate is configured.
func secureFixture(t *testing.T, opts registry.Options, tls bool) *fixture {
	t.Helper()
	if !tls {
		return newFixture(t, opts)
	}
	opts.Hosts = hosts.Config{Dirs: []string{t.TempDir()}}
	f := newFixture(t, opts, testreg.WithTLS())
	write(t, filepath.Join(opts.Hosts.Dirs[0], "ca.pem"), string(f.CA()))
	configure(t, opts, f.Host(), fmt.Sprintf("server = %q\nca = \"../ca.pem\"\n", f.URL()))
	return f
}

func TestTLS(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		kind       fserr.Kind
	}{
		{"unknown authority", `server = "https://HOST"`, fserr.Unavailable},
		{"plain to a secure host", `server = "http://HOST"`, fserr.Invalid},
		{"known authority", "server = \"https://HOST\"\nca = \"ca.pem\"", 0},
		{"not verified", "server = \"https://HOST\"\nskip_verify = true", 0},
		{"missing file", "server = \"https://HOST\"\nca = \"nowhere.pem\"", fserr.Invalid},
		{"broken file", "server =", fserr.Invalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := registry.Options{Hosts: hosts.Config{Dirs: []string{t.TempDir()}}}
			f := newFixture(t, opts, testreg.WithTLS())
			configure(t, opts, f.Host(), strings.ReplaceAll(tt.file, "HOST", f.Host()))
			write(t, filepath.Join(opts.Hosts.Dirs[0], f.Host(), "ca.pem"), string(f.CA()))
			err := f.readRange(bounded(t), 10, 100)
			if tt.kind == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantKind(t, err, tt.kind)
		})
	}
	t.Run("secure to a plain host", func(t *testing.T) {
		opts := registry.Options{Hosts: hosts.Config{Dirs: []string{t.TempDir()}}}
		f := newFixture(t, opts)
		configure(t, opts, f.Host(), fmt.Sprintf("server = \"https://%s\"", f.Host()))
		wantKind(t, f.readRange(bounded(t), 10, 100), fserr.Unavailable)
	})
}

// mirrored is a registry with a mirror in front, both holding the blob.
func mirrored(t *testing.T, opts registry.Options, upstream, mirror []testreg.Option, extra string) (*fixture, *testreg.Registry) {
	t.Helper()
	m := testreg.New(t, mirror...)
	opts.Hosts = hosts.Config{Dirs: []string{t.TempDir()}}
	f := newFixture(t, opts, upstream...)
	m.AddBlob(f.data)
	configure(t, opts, f.Host(), fmt.Sprintf("server = %q\n[host.%q]\n%s\n", f.URL(), m.URL(), extra))
	f.hosts = opts.Hosts
	return f, m
}

func TestMirrorOrder(t *testing.T) {
	f, m := mirrored(t, registry.Options{}, nil, nil, `capabilities = ["pull"]`)
	if err := f.readRange(t.Context(), 0, 100); err != nil {
		t.Fatal(err)
	}
	if got := [2]int{m.Count(f.match()).Requests, f.Count(f.match()).Requests}; got != [2]int{1, 0} {
		t.Errorf("requests to mirror and registry: %v", got)
	}
	if q := m.Requests(f.match())[0].Query; q != "ns="+strings.ReplaceAll(f.Host(), ":", "%3A") {
		t.Errorf("query for the mirror: %q", q)
	}
	for _, fault := range []testreg.Fault{
		testreg.NotFound(), testreg.Status(403), testreg.Status(500), testreg.Status(416), testreg.Reset(-1),
		testreg.Shift(1), testreg.LongBody(1), testreg.Reset(10), testreg.TooMany(1),
	} {
		m.Heal()
		m.Always(f.match(), fault)
		f.blob = f.open(t)
		f.ResetCounts()
		if err := f.readRange(bounded(t), 5, 1000); err != nil {
			t.Errorf("mirror fails: %v", err)
		}
		if n := f.Count(f.match()).Requests; n != 1 {
			t.Errorf("%d requests to the registry", n)
		}
		if q := f.Requests(f.match())[0].Query; q != "" {
			t.Errorf("query for the registry itself: %q", q)
		}
	}
}

func TestMirrorThatIsDownIsAskedLast(t *testing.T) {
	f, m := mirrored(t, registry.Options{}, nil, nil, "")
	m.Always(f.match(), testreg.Status(503))
	for range 5 {
		if err := f.readRange(t.Context(), 0, 100); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.Count(f.match()).Requests; n != 1 {
		t.Errorf("%d requests to a mirror that is down, want 1", n)
	}
}

func TestAuthorityDecides(t *testing.T) {
	f, m := mirrored(t, registry.Options{}, nil, nil, "")
	m.Always(f.match(), testreg.Status(503))
	f.Always(f.match(), testreg.NotFound())
	err := f.readRange(bounded(t), 0, 100)
	wantKind(t, err, fserr.NotExist)
	if !strings.Contains(err.Error(), m.Host()) || !strings.Contains(err.Error(), f.Host()) {
		t.Errorf("the error does not name both hosts: %v", err)
	}
	m.Heal()
	f.Heal()
	m.Always(f.match(), testreg.NotFound())
	f.Always(f.match(), testreg.Status(503))
	wantKind(t, f.readRange(bounded(t), 0, 100), fserr.Unavailable)
}

func TestCapabilities(t *testing.T) {
	f, m := mirrored(t, registry.Options{}, nil, nil, `capabilities = ["pull"]`)
	img := f.AddImage("demo", "v1", testreg.Image{Layers: []testreg.Layer{{Data: f.data}}})
	m.AddImage("demo", "v1", testreg.Image{Layers: []testreg.Layer{{Data: f.data}}})
	got, err := f.client.Resolve(t.Context(), f.Ref("demo", "v1"), *img.Descriptor.Platform)
	if err != nil || got.Digest != img.Descriptor.Digest {
		t.Fatalf("Resolve = %v, %v", got, err)
	}
	if n := m.Count(testreg.Match{Path: "/manifests/v1"}).Requests; n != 0 {
		t.Error("a tag was asked of a mirror that must not resolve")
	}
	if n := m.Count(testreg.Match{Digest: img.Config.Digest}).Requests; n != 1 {
		t.Error("the config was not asked of the mirror")
	}
	p, err := f.client.Pusher(t.Context(), f.Ref("demo", "v2"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.PushManifest(t.Context(), "v2", img.Descriptor.MediaType, img.ManifestBytes); err != nil {
		t.Fatal(err)
	}
	if n := m.Count(testreg.Match{Method: http.MethodPut}).Requests; n != 0 {
		t.Error("pushed to a mirror that must not be pushed to")
	}
}

func TestOverridePathAndHeader(t *testing.T) {
	reg := testreg.New(t)
	opts := configure(t, registry.Options{}, "docker.io", fmt.Sprintf(`
server = "http://127.0.0.1:1"
[host."%s/cache/v2/hub"]
  override_path = true
  [host."%s/cache/v2/hub".header]
    X-Token = ["one", "two"]
`, reg.URL(), reg.URL()))
	data := []byte("some bytes")
	desc := reg.AddBlob(data)
	reg.Always(testreg.Match{}, func(x testreg.Exchange) {
		x.R.URL.Path = strings.Replace(x.R.URL.Path, "/cache/v2/hub/", "/v2/", 1)
		x.Serve(x.W, x.R)
	})
	b, err := open(t, opts).Blob(t.Context(), "alpine", desc)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ReadRange(t.Context(), 0, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	q := reg.Requests(testreg.Match{})[0]
	if q.Path != "/cache/v2/hub/library/alpine/blobs/"+desc.Digest.String() || q.Query != "ns=docker.io" {
		t.Errorf("asked for %s?%s", q.Path, q.Query)
	}
	if got := q.Header.Values("X-Token"); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("X-Token = %q", got)
	}
}

// TestWrongBytesFromMirror lets the verification of the reader choose the host.
func TestWrongBytesFromMirror(t *testing.T) {
	f, m := mirrored(t, registry.Options{}, nil, nil, "")
	m.Always(f.match(), testreg.WrongBytes())
	for range 3 {
		if err := f.readVerified(t.Context(), 1000, 2000); err != nil {
			t.Fatal(err)
		}
	}
	if got := [2]int{m.Count(f.match()).Requests, f.Count(f.match()).Requests}; got != [2]int{1, 3} {
		t.Errorf("requests to mirror and registry: %v, want one to find out", got)
	}
	f.Always(f.match(), testreg.WrongBytes())
	wantKind(t, f.readVerified(t.Context(), 1000, 2000), fserr.Corrupt)
	m.Heal()
	if err := f.readVerified(t.Context(), 1000, 2000); err != nil {
		t.Errorf("a mirror that got well: %v", err)
	}
}

func TestWrongBytesOnce(t *testing.T) {
	f := newFixture(t, registry.Options{})
	f.On(f.match(), testreg.WrongBytes())
	if err := f.readVerified(t.Context(), 0, 10); err != nil {
		t.Error(err)
	}
}

func TestWrongManifestFromMirror(t *testing.T) {
	f, m := mirrored(t, registry.Options{}, nil, nil, "")
	img := testreg.Image{Layers: []testreg.Layer{{Data: f.data}}}
	want := f.AddImage("demo", "v1", img)
	m.AddImage("demo", "v1", img)
	m.Always(testreg.Match{Path: "/manifests/"}, testreg.WrongBytes())
	m.Always(testreg.Match{Digest: want.Config.Digest}, testreg.WrongBytes())
	for _, target := range []string{"v1", want.Descriptor.Digest.String()} {
		got, err := f.client.Resolve(t.Context(), f.Ref("demo", target), *want.Descriptor.Platform)
		if err != nil || got.Digest != want.Descriptor.Digest {
			t.Errorf("Resolve(%s) = %v, %v", target, got, err)
		}
	}
}

func TestHostsFileIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	c := hosts.Config{Dirs: []string{dir}}
	before := c.Stamp("example.com")
	configure(t, registry.Options{Hosts: c}, "example.com", `server = "https://one.example"`)
	first := c.Stamp("example.com")
	configure(t, registry.Options{Hosts: c}, "example.com", `server = "https://second.example"`)
	second := c.Stamp("example.com")
	if before == first || first == second {
		t.Errorf("stamps %q, %q, %q do not tell the changes", before, first, second)
	}
}
