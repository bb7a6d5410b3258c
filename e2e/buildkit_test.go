package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/vm/vmtest"
)

// buildkitConfig has the snapshotter called stargz, since only those of a few names
// are offered layers that are not there.
const buildkitConfig = `root = "%[1]s/root"
[grpc]
address = ["unix://%[1]s/b.sock"]
[worker.containerd]
enabled = false
[worker.oci]
enabled = true
snapshotter = "stargz"
proxySnapshotterPath = "%[2]s"
networkMode = "host"
noProcessSandbox = false
[registry."%[3]s"]
http = true
`

// startBuildKit starts a buildkitd that deploy/install-deps.sh built, on the daemon's
// snapshotter, and gives the address of its socket and its buildctl.
func startBuildKit(t *testing.T, daemon *harness.Daemon, registry string) (address, buildctl string) {
	t.Helper()
	cache, err := demoimage.CacheDir()
	must(t, err)
	found, err := filepath.Glob(filepath.Join(cache, "buildkit-v*", "bin", "buildkitd"))
	if err != nil || len(found) == 0 {
		missing := fmt.Errorf("no BuildKit in %s: run make e2e-builders", cache)
		if os.Getenv("NINEPLY_BUILDERS") == "" {
			t.Skip(missing)
		}
		vmtest.Require(t, missing)
	}
	program := found[len(found)-1]
	dir := harness.Dir(t)
	config := filepath.Join(dir, "buildkitd.toml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, buildkitConfig, dir, daemon.Plugin().Socket, registry), 0o600))
	address, buildctl = "unix://"+dir+"/b.sock", filepath.Join(filepath.Dir(program), "buildctl")
	p := harness.Start(t, dir, "buildkitd", nil, program, "--config", config)
	p.Await(t, func() error {
		_, err := harness.TryRun(t, buildctl, "--addr", address, "debug", "workers")
		return err
	})
	return address, buildctl
}

// TestBuildKit: a build reads a few files of its base image, and only they are
// fetched.
func TestBuildKit(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	daemon := site.daemon(t, "")
	address, buildctl := startBuildKit(t, daemon, site.proxy.Addr)
	source, out := t.TempDir(), t.TempDir()
	const dockerfile = "FROM %s AS base\nRUN python3 /app/hello.py > /line && wc -c < /etc/debian_version\nFROM scratch\nCOPY --from=base /line /line\n"
	must(t, os.WriteFile(filepath.Join(source, "Dockerfile"), fmt.Appendf(nil, dockerfile, site.ref("lazy")), 0o600))
	site.proxy.Reset()
	harness.Run(t, buildctl, "--addr", address, "build", "--frontend", "dockerfile.v0", "--progress", "plain",
		"--local", "context="+source, "--local", "dockerfile="+source, "--output", "type=local,dest="+out)
	fetched, total := site.proxy.Counts().BlobBytes(), site.image.Size()
	line, err := os.ReadFile(filepath.Join(out, "line"))
	must(t, err)
	if !strings.HasPrefix(string(line), greeting) {
		t.Errorf("the build wrote %q", line)
	}
	t.Logf("%d of %d bytes fetched for the build", fetched, total)
	if fetched > total/4 {
		t.Errorf("%d of %d bytes fetched for the build", fetched, total)
	}
	harness.Run(t, buildctl, "--addr", address, "prune", "--all")
	eventually(t, "nothing is mounted", func() bool { return len(status(t, daemon).Mounts) == 0 })
}
