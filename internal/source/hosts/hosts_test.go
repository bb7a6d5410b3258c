package hosts_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source/hosts"
)

// server is what a registry is without any configuration.
func server(addr string) hosts.Host {
	return hosts.Host{Scheme: "https", Addr: addr, Path: "/v2", Capabilities: hosts.All}
}

// lookup is a case of TestLookup.
type lookup struct {
	name, registry string
	files          map[string]string
	want           []hosts.Host
}

func TestLookup(t *testing.T) {
	testLookup(t, []lookup{
		{name: "nothing configured", registry: "example.com", want: []hosts.Host{server("example.com")}},
		{name: "docker hub", registry: "docker.io", want: []hosts.Host{server("registry-1.docker.io")}},
		{name: "loopback", registry: "127.0.0.1:5000", want: []hosts.Host{{Scheme: "http", Addr: "127.0.0.1:5000", Path: "/v2", Capabilities: hosts.All}}},
		{name: "localhost", registry: "localhost", want: []hosts.Host{{Scheme: "http", Addr: "localhost", Path: "/v2", Capabilities: hosts.All}}},
		{name: "loopback v6", registry: "[::1]:5000", want: []hosts.Host{{Scheme: "http", Addr: "[::1]:5000", Path: "/v2", Capabilities: hosts.All}}},
		{name: "secure loopback", registry: "localhost:443", want: []hosts.Host{server("localhost:443")}},
		{name: "plain by option", registry: "plain.example:80", want: []hosts.Host{{Scheme: "http", Addr: "plain.example:80", Path: "/v2", Capabilities: hosts.All}}},
		{
			name: "mirror of docker hub", registry: "docker.io",
			files: map[string]string{"docker.io/hosts.toml": "server = \"https://registry-1.docker.io\"\n[host.\"https://mirror.example\"]\ncapabilities = [\"pull\", \"resolve\"]\n"},
			want: []hosts.Host{
				{Scheme: "https", Addr: "mirror.example", Path: "/v2", Capabilities: hosts.Pull | hosts.Resolve, Mirror: true},
				server("registry-1.docker.io"),
			},
		},
		{
			name: "order of the file", registry: "example.com",
			files: map[string]string{"example.com/hosts.toml": `
[host."https://z.example"]
[host."http://b.example:8080/path"]
  [host."http://b.example:8080/path".header]
  X = "1"
[host."a.example"]
[host."https://m.example/v2/proxy"]
override_path = true
`},
			want: []hosts.Host{
				{Scheme: "https", Addr: "z.example", Path: "/v2", Capabilities: hosts.All, Mirror: true},
				{Scheme: "http", Addr: "b.example:8080", Path: "/path/v2", Capabilities: hosts.All, Mirror: true, Header: http.Header{"X": {"1"}}},
				{Scheme: "https", Addr: "a.example", Path: "/v2", Capabilities: hosts.All, Mirror: true},
				{Scheme: "https", Addr: "m.example", Path: "/v2/proxy", Capabilities: hosts.All, Mirror: true},
				server("example.com"),
			},
		},
	})
}

func TestLookupDetails(t *testing.T) {
	testLookup(t, []lookup{
		{
			name: "everything", registry: "example.com:5000",
			files: map[string]string{"example.com_5000_/hosts.toml": `
server = "https://other.example"
ca = ["ca.pem", "/etc/ssl/ca.pem"]
client = [["c.pem", "k.pem"], ["both.pem", "both.pem"]]
skip_verify = true
dial_timeout = "1500ms"
capabilities = ["PULL", "push", "referrers"]
[header]
x-a = ["1", "2"]
X-B = "3"
`},
			want: []hosts.Host{{
				Scheme: "https", Addr: "other.example", Path: "/v2", Capabilities: hosts.Pull | hosts.Push | hosts.Referrers,
				Mirror: true, CA: []string{"DIR/example.com_5000_/ca.pem", "/etc/ssl/ca.pem"},
				Client:     [][2]string{{"DIR/example.com_5000_/c.pem", "DIR/example.com_5000_/k.pem"}, {"DIR/example.com_5000_/both.pem", "DIR/example.com_5000_/both.pem"}},
				SkipVerify: true, DialTimeout: 1500 * time.Millisecond,
				Header: http.Header{"X-A": {"1", "2"}, "X-B": {"3"}},
			}},
		},
		{
			name: "single files", registry: "example.com",
			files: map[string]string{"example.com/hosts.toml": "ca = \"ca.pem\"\nclient = \"c.pem\"\n[host.\"https://m.example\"]\nclient = [\"a.pem\", \"b.pem\"]\n"},
			want: []hosts.Host{
				{
					Scheme: "https", Addr: "m.example", Path: "/v2", Capabilities: hosts.All, Mirror: true,
					Client: [][2]string{{"DIR/example.com/a.pem", ""}, {"DIR/example.com/b.pem", ""}},
				},
				{
					Scheme: "https", Addr: "example.com", Path: "/v2", Capabilities: hosts.All,
					CA: []string{"DIR/example.com/ca.pem"}, Client: [][2]string{{"DIR/example.com/c.pem", ""}},
				},
			},
		},
		{
			name: "default", registry: "example.com",
			files: map[string]string{"_default/hosts.toml": "[host.\"https://cache.example\"]\n"},
			want: []hosts.Host{
				{Scheme: "https", Addr: "cache.example", Path: "/v2", Capabilities: hosts.All, Mirror: true}, server("example.com"),
			},
		},
		{
			name: "own directory before the default", registry: "example.com:80",
			files: map[string]string{"_default/hosts.toml": "[host.\"https://cache.example\"]\n", "example.com:80/hosts.toml": "server = \"http://example.com:80\"\n"},
			want:  []hosts.Host{{Scheme: "http", Addr: "example.com:80", Path: "/v2", Capabilities: hosts.All}},
		},
		{
			name: "certificates only", registry: "example.com",
			files: map[string]string{
				"example.com/ca.crt": "", "example.com/b.cert": "", "example.com/b.key": "", "example.com/alone.cert": "", "example.com/note.txt": "",
			},
			want: []hosts.Host{{
				Scheme: "https", Addr: "example.com", Path: "/v2", Capabilities: hosts.All, CA: []string{"DIR/example.com/ca.crt"},
				Client: [][2]string{{"DIR/example.com/alone.cert", ""}, {"DIR/example.com/b.cert", "DIR/example.com/b.key"}},
			}},
		},
		{
			name: "a host in two tables", registry: "example.com",
			files: map[string]string{"example.com/hosts.toml": "[host.\"https://m.example\".header]\nA = \"1\"\n[host.\"https://m.example\"]\n"},
			want: []hosts.Host{
				{Scheme: "https", Addr: "m.example", Path: "/v2", Capabilities: hosts.All, Mirror: true, Header: http.Header{"A": {"1"}}}, server("example.com"),
			},
		},
		{name: "empty file", registry: "example.com", files: map[string]string{"example.com/hosts.toml": ""}, want: []hosts.Host{server("example.com")}},
	})
}

func testLookup(t *testing.T, cases []lookup) {
	t.Helper()
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			dir := populate(t, tt.files)
			c := hosts.Config{Dirs: []string{filepath.Join(dir, "missing"), dir}, PlainHTTP: []string{"plain.example:80"}}
			got, err := c.Lookup(tt.registry)
			if err != nil {
				t.Fatal(err)
			}
			relative(got, dir)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("hosts differ (-want +got):\n%s", diff)
			}
		})
	}
}

// relative replaces the directory of the test by DIR.
func relative(list []hosts.Host, dir string) {
	for i := range list {
		for j := range list[i].CA {
			list[i].CA[j] = strings.Replace(list[i].CA[j], dir, "DIR", 1)
		}
		for j := range list[i].Client {
			for k := range list[i].Client[j] {
				list[i].Client[j][k] = strings.Replace(list[i].Client[j][k], dir, "DIR", 1)
			}
		}
	}
}

func populate(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLookupFails(t *testing.T) {
	for _, tt := range []struct{ name, registry, file, text string }{
		{"no host", "", "", "host name"},
		{"a path", "../../etc", "", "host name"},
		{"a slash", "a/b", "", "host name"},
		{"hidden", ".ssh", "", "host name"},
		{"default itself", "_default", "", "host name"},
		{"no TOML", "example.com", "server = ", "hosts.toml"},
		{"wrong type", "example.com", "server = 5", "hosts.toml"},
		{"unknown capability", "example.com", `capabilities = ["fetch"]`, `"fetch"`},
		{"ca of a wrong type", "example.com", "ca = 5", "ca"},
		{"ca list of a wrong type", "example.com", "ca = [5]", "ca"},
		{"client of a wrong type", "example.com", "client = 5", "client"},
		{"three files for a client", "example.com", `client = [["a", "b", "c"]]`, "pair"},
		{"header of a wrong type", "example.com", "header = { X = 5 }", "X"},
		{"header that breaks out", "example.com", `header = { X = "a\r\nY: b" }`, "header"},
		{"timeout without unit", "example.com", `dial_timeout = "5"`, "dial_timeout"},
		{"negative timeout", "example.com", `dial_timeout = "-5s"`, "negative"},
		{"address without host", "example.com", `server = "https://"`, "no host"},
		{"address with password", "example.com", `server = "https://u:pw@h.example"`, "credentials"},
		{"address with query", "example.com", `server = "https://h.example/?a=b"`, "path"},
		{"broken address", "example.com", `server = "https://h.example:port"`, "address"},
		{"empty host", "example.com", `[host.""]`, "no host"},
		{"hosts without order", "example.com", `host = { "https://a.example" = {}, "https://b.example" = {} }`, "order"},
		{"too large", "example.com", "#" + strings.Repeat("x", 1<<20), "bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := populate(t, map[string]string{"example.com/hosts.toml": tt.file})
			list, err := hosts.Config{Dirs: []string{dir}}.Lookup(tt.registry)
			if err == nil {
				t.Fatalf("no error, but %+v", list)
			}
			if fserr.KindOf(err) != fserr.Invalid || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v (%v), want %q", err, fserr.KindOf(err), tt.text)
			}
			if strings.Contains(err.Error(), "pw") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestStamp(t *testing.T) {
	dir := populate(t, map[string]string{"example.com/hosts.toml": "server = \"https://a.example\"\n"})
	c := hosts.Config{Dirs: []string{dir}}
	first := c.Stamp("example.com")
	if first == "" || first != c.Stamp("example.com") {
		t.Error("Stamp is not stable")
	}
	if err := os.WriteFile(filepath.Join(dir, "example.com", "hosts.toml"), []byte("server = \"https://longer.example\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c.Stamp("example.com") == first {
		t.Error("Stamp did not see the change")
	}
	if err := os.RemoveAll(filepath.Join(dir, "example.com")); err != nil {
		t.Fatal(err)
	}
	if c.Stamp("example.com") == first {
		t.Error("Stamp did not see the removal")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("server = \"https://a.example\"\n[host.\"https://m.example\"]\ncapabilities = [\"pull\"]\n"))
	f.Add([]byte("ca = [\"a\", \"b\"]\nclient = [[\"a\", \"b\"]]\nheader = { X = \"y\" }\ndial_timeout = \"1s\""))
	f.Add([]byte("[host]\n[host.a.header]\nx = 1"))
	f.Add([]byte("host.\"a\".ca = \"x\"\n[[host.b]]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := hosts.Parse(data, "/dir")
		if err != nil {
			return
		}
		if len(list) == 0 {
			t.Fatal("no server")
		}
		for i, h := range list {
			if h.Addr == "" && i < len(list)-1 {
				t.Errorf("host %d has no address", i)
			}
			checkHost(t, h)
		}
	})
}

// checkHost looks at what must hold whatever the file says.
func checkHost(t *testing.T, h hosts.Host) {
	t.Helper()
	if h.Addr != "" && h.Scheme != "http" && h.Scheme != "https" {
		t.Errorf("scheme %q", h.Scheme)
	}
	if strings.HasSuffix(h.Path, "/") {
		t.Errorf("path %q ends with a slash", h.Path)
	}
	for _, ca := range h.CA {
		if !filepath.IsAbs(ca) {
			t.Errorf("relative file %q", ca)
		}
	}
	for k, vs := range h.Header {
		for _, v := range vs {
			if strings.ContainsAny(k+v, "\r\n") {
				t.Errorf("header %q: %q", k, v)
			}
		}
	}
}
