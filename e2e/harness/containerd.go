package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"text/template"

	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/vm/vmtest"
)

// Containerd is a containerd with directories and a socket of its own.
type Containerd struct {
	*Process
	Address   string // of its socket
	Namespace string
	ctr       string
	config    containerdConfig
	argv      []string
	env       []string
}

type containerdConfig struct {
	Dir         string
	Snapshotter string // name of the proxy plugin, "" for none
	Socket      string // its socket
	Sandbox     string // pause image for pods
	Platform    string
}

// Plugin registers a snapshotter with containerd. Sandbox is the image of pods'
// sandboxes, if there are to be pods.
type Plugin struct{ Name, Socket, Sandbox string }

// configOne is for containerd 1.6 and 1.7.
var configOne = template.Must(template.New("1.x").Parse(`version = 2
root = "{{.Dir}}/root"
state = "{{.Dir}}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{{.Dir}}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{{.Dir}}/opt"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
stream_server_port = "0"
{{if .Sandbox}}sandbox_image = "{{.Sandbox}}"{{end}}
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{{.Dir}}/certs.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
{{if .Snapshotter}}snapshotter = "{{.Snapshotter}}"{{end}}
disable_snapshot_annotations = false
{{if .Snapshotter}}
[proxy_plugins.{{.Snapshotter}}]
type = "snapshot"
address = "{{.Socket}}"
{{end}}`))

// configTwo is for containerd 2.x. Listing unpack_config replaces the default
// list, so overlayfs has to be in it again.
var configTwo = template.Must(template.New("2.x").Parse(`version = 3
root = "{{.Dir}}/root"
state = "{{.Dir}}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.nri.v1.nri"]
[grpc]
address = "{{.Dir}}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{{.Dir}}/opt"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.images"]
{{if .Snapshotter}}snapshotter = "{{.Snapshotter}}"{{end}}
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{{.Dir}}/certs.d"
{{if .Sandbox}}
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{{.Sandbox}}"
{{end}}
[plugins."io.containerd.image-verifier.v1.bindir"]
bin_dir = "{{.Dir}}/verifiers"
per_verifier_timeout = "60s"
[plugins."io.containerd.transfer.v1.local"]
config_path = "{{.Dir}}/certs.d"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "{{.Platform}}"
snapshotter = "overlayfs"
{{if .Snapshotter}}
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "{{.Platform}}"
snapshotter = "{{.Snapshotter}}"
[proxy_plugins.{{.Snapshotter}}]
type = "snapshot"
address = "{{.Socket}}"
capabilities = ["remap-ids"]
[proxy_plugins.{{.Snapshotter}}.exports]
root = "{{.Dir}}/root"
enable_remote_snapshot_annotations = "true"
{{end}}`))

// hosts has every registry of the loopback interface spoken to in plain HTTP.
const hosts = "server = \"http://%s\"\n"

// StartContainerd1 starts Debian's containerd, of the 1.6 series.
func StartContainerd1(t testing.TB, plugin *Plugin, registries ...string) *Containerd {
	t.Helper()
	program := lookPath(t, "containerd", "containerd")
	return startContainerd(t, configOne, filepath.Dir(program), plugin, registries)
}

// StartContainerd17 starts the containerd 1.7 that deploy/install-deps.sh built.
func StartContainerd17(t testing.TB, plugin *Plugin, registries ...string) *Containerd {
	t.Helper()
	return startContainerd(t, configOne, builtContainerd(t, "v1.7"), plugin, registries)
}

// StartContainerd2 starts the containerd 2.x that deploy/install-deps.sh built.
func StartContainerd2(t testing.TB, plugin *Plugin, registries ...string) *Containerd {
	t.Helper()
	return startContainerd(t, configTwo, builtContainerd(t, "v2"), plugin, registries)
}

// builtContainerd is the directory of the programs of a containerd in the cache.
func builtContainerd(t testing.TB, version string) string {
	t.Helper()
	cache, err := demoimage.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(cache, "containerd-"+version+"*", "bin", "containerd"))
	if err != nil || len(found) == 0 {
		vmtest.Require(t, fmt.Errorf("no containerd %s in %s: run deploy/install-deps.sh test", version, cache))
	}
	return filepath.Dir(found[len(found)-1])
}

func startContainerd(t testing.TB, config *template.Template, bin string, plugin *Plugin, registries []string) *Containerd {
	t.Helper()
	if os.Geteuid() != 0 {
		vmtest.Require(t, fmt.Errorf("containerd needs root"))
	}
	lookPath(t, "runc", "runc")
	dir := Dir(t)
	c := &Containerd{
		Address: filepath.Join(dir, "c.sock"), Namespace: "e2e", ctr: filepath.Join(bin, "ctr"),
		config: containerdConfig{Dir: dir, Platform: "linux/" + runtime.GOARCH},
		// The shim is found in PATH: the one of the same build first.
		env:  []string{"PATH=" + bin + ":" + os.Getenv("PATH")},
		argv: []string{filepath.Join(bin, "containerd"), "--config", filepath.Join(dir, "config.toml")},
	}
	if plugin != nil {
		c.config.Snapshotter, c.config.Socket, c.config.Sandbox = plugin.Name, plugin.Socket, plugin.Sandbox
	}
	var text strings.Builder
	if err := config.Execute(&text, c.config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	writeHosts(t, c.HostsDir(), registries)
	c.Start(t)
	return c
}

// writeHosts makes a certs.d directory for registries that speak plain HTTP.
func writeHosts(t testing.TB, dir string, registries []string) {
	t.Helper()
	for _, registry := range registries {
		host := filepath.Join(dir, registry)
		if err := os.MkdirAll(host, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(host, "hosts.toml"), fmt.Appendf(nil, hosts, registry), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// VerifierDir is where containerd 2.x looks for image verifiers. It is not there at first.
func (c *Containerd) VerifierDir() string { return filepath.Join(c.config.Dir, "verifiers") }

// HostsDir is the certs.d directory that containerd reads.
func (c *Containerd) HostsDir() string { return filepath.Join(c.config.Dir, "certs.d") }

// Start starts containerd, again after Stop or Kill, and waits until it serves.
func (c *Containerd) Start(t testing.TB) {
	t.Helper()
	c.Process = Start(t, c.config.Dir, "containerd", c.env, c.argv...)
	c.Await(t, func() error {
		_, err := TryRun(t, c.ctr, "--address", c.Address, "--connect-timeout", "1s", "version")
		return err
	})
}

// CtrPath is the ctr command of this containerd.
func (c *Containerd) CtrPath() string { return c.ctr }

// Ctr runs the ctr command of this containerd in its namespace and returns what
// it printed.
func (c *Containerd) Ctr(t testing.TB, args ...string) string {
	t.Helper()
	return Run(t, append([]string{c.ctr, "--address", c.Address, "--namespace", c.Namespace}, args...)...)
}

// Content lists the digests in containerd's content store: a lazily pulled
// image leaves no layer there.
func (c *Containerd) Content(t testing.TB, namespace string) []string {
	t.Helper()
	return strings.Fields(Run(t, c.ctr, "--address", c.Address, "--namespace", namespace, "content", "ls", "--quiet"))
}
