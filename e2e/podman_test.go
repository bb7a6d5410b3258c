package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/vm/vmtest"
)

// podman is a Podman with a storage of its own, and a layer store that it looks
// into.
type podman struct {
	dir, storage string
	daemon       *harness.Daemon
	store        *harness.Process
}

const storageConf = `[storage]
driver = "overlay"
graphroot = "%[1]s/g"
runroot = "%[1]s/r"
[storage.options]
additionallayerstores = ["%[1]s/store:ref"]
`

// startPodman starts a layer store on the daemon, and sets Podman up for it.
func startPodman(t *testing.T, daemon *harness.Daemon) *podman {
	t.Helper()
	if _, err := exec.LookPath("podman"); err != nil {
		vmtest.Require(t, fmt.Errorf("podman is not installed: %w", err))
	}
	p := &podman{dir: harness.Dir(t), daemon: daemon}
	p.storage = filepath.Join(p.dir, "storage.conf")
	must(t, os.WriteFile(p.storage, fmt.Appendf(nil, storageConf, p.dir), 0o600))
	must(t, os.WriteFile(filepath.Join(p.dir, "containers.conf"), []byte("[engine]\nevents_logger = \"none\"\n"), 0o600))
	p.startStore(t)
	t.Cleanup(p.clean)
	return p
}

func (p *podman) startStore(t *testing.T) {
	t.Helper()
	p.store = harness.Start(t, p.dir, "store", nil, filepath.Join(programs, "nineply"), "--config", filepath.Join(p.daemon.Dir, "config.toml"),
		"store", "serve", filepath.Join(p.dir, "store"))
	p.store.Await(t, func() error {
		text, err := os.ReadFile("/proc/self/mounts")
		if err == nil && !strings.Contains(string(text), " "+p.dir+"/store fuse.") {
			err = os.ErrNotExist
		}
		if err == nil {
			_, err = os.Stat(filepath.Join(p.dir, "store"))
		}
		return err
	})
}

func (p *podman) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "podman", append([]string{"--runtime", "runc", "--cgroup-manager", "cgroupfs", "--tmpdir", p.dir + "/t"}, args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+p.storage, "CONTAINERS_CONF="+p.dir+"/containers.conf")
	return cmd
}

func (p *podman) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := p.command(t.Context(), args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("podman %q: %w\n%s", args, err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

func (p *podman) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.try(t, args...)
	must(t, err)
	return out
}

// container gives the arguments of "run" that this machine needs.
func container(args ...string) []string {
	return append([]string{"run", "--network", "host", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"}, args...)
}

// clean removes what a test that failed left.
func (p *podman) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_ = p.command(ctx, "rm", "--all", "--force", "--time", "0").Run() // usually there is nothing
	_ = p.command(ctx, "rmi", "--all", "--force").Run()
	_ = exec.CommandContext(ctx, "umount", p.dir+"/g/overlay").Run()
}

// used lists how many clients use each layer of the store.
func (p *podman) used(t *testing.T) (layers, uses int) {
	t.Helper()
	for line := range strings.Lines(p.daemon.CLI(t, "store", "list", "--json")) {
		var r struct {
			Uses map[string]int `json:"uses"`
		}
		must(t, json.Unmarshal([]byte(line), &r))
		layers++
		for _, n := range r.Uses {
			uses += n
		}
	}
	return layers, uses
}

// TestPodman: podman pulls and runs an image of which a fraction is fetched, its
// containers do not notice that daemon and layer store die, and removing the image
// releases every layer.
func TestPodman(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	daemon := site.daemon(t, "")
	p := startPodman(t, daemon)
	ref := site.ref("lazy")
	site.proxy.Reset()
	p.run(t, "pull", "--quiet", "--tls-verify=false", ref)
	pulled := site.proxy.Counts().BlobBytes()
	if got := p.run(t, container("--rm", ref)...); !strings.HasPrefix(got, greeting) {
		t.Errorf("it printed %q", got)
	}
	atLine, total := site.proxy.Counts().BlobBytes(), site.image.Size()
	t.Logf("%d bytes fetched by the pull, %d when the line was printed, of %d", pulled, atLine, total)
	if atLine > total/4 {
		t.Errorf("%d of %d bytes fetched when the line was printed", atLine, total)
	}
	if layers, uses := p.used(t); layers != len(site.image.Layers) || uses != layers {
		t.Errorf("%d layers with %d uses, for an image of %d", layers, uses, len(site.image.Layers))
	}
	p.survive(t, ref)
	p.run(t, "rmi", "--force", ref)
	eventually(t, "every layer is released", func() bool {
		layers, _ := p.used(t)
		return layers == 0 && len(status(t, daemon).Mounts) == 0
	})
}

// survive has a container read files again and again while first the daemon and
// then the layer store are killed, and starts another one afterwards.
func (p *podman) survive(t *testing.T, ref string) {
	t.Helper()
	const loop = `set -e; sha256sum /usr/bin/python3 > /tmp/sums; : > /tmp/n
while :; do sha256sum --quiet --check /tmp/sums; find /usr/share -type f | shuf -n 20 | xargs cat > /dev/null; echo x >> /tmp/n; done`
	id := p.run(t, container("--detach", ref, "/bin/sh", "-c", loop)...)
	rounds := func() int {
		out, err := p.try(t, "exec", id, "cat", "/tmp/n")
		if err != nil {
			return -1
		}
		return strings.Count(out+"\n", "\n")
	}
	goesOn := func(what string) {
		t.Helper()
		before := rounds()
		eventually(t, what, func() bool {
			if state := p.run(t, "inspect", "--format", "{{.State.Status}}", id); state != "running" {
				t.Fatalf("%s: it is %s: %s", what, state, p.run(t, "logs", id))
			}
			return rounds() > before+1
		})
	}
	goesOn("the container reads")
	p.daemon.Kill()
	p.daemon.Start(t)
	goesOn("the container reads after the daemon was killed")
	p.store.Kill()
	p.startStore(t) // podman does not start without a store that it is configured for
	goesOn("the container reads after the layer store was killed")
	if got := p.run(t, container("--rm", ref)...); !strings.HasPrefix(got, greeting) {
		t.Errorf("after a restart of the layer store it printed %q", got)
	}
	if logs := p.run(t, "logs", id); logs != "" {
		t.Errorf("the container said %q", logs)
	}
	p.run(t, "rm", "--force", "--time", "0", id)
}
