package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nineply/nineply/vm/vmtest"
)

// Daemon is the product: a daemon and its keeper, each a process of its own.
type Daemon struct {
	*Process
	Keeper *Process
	Dir    string
	bin    string
	config string
}

// DaemonOptions change a daemon's configuration.
type DaemonOptions struct {
	// Config is TOML put after the harness's own keys; it can add to [fetch],
	// [cache] and [snapshotter]. Nothing is fetched in the background unless it has a
	// [fetch].
	Config string
	// Registries are hosts that speak plain HTTP.
	Registries []string
}

const daemonConfig = `root = '%[1]s/root'
state = '%[1]s/state'

[listen]
ninep = ['unix:%[1]s/state/9p.sock']
control = 'unix:%[1]s/state/control.sock'
snapshotter = 'unix:%[1]s/state/snapshotter.sock'
keeper = 'unix:%[1]s/state/keeper.sock'

[registry]
hosts_dirs = ['%[1]s/certs.d']
docker_config = '%[1]s'

[log]
level = 'debug'
%[2]s`

// BuildPrograms compiles the product and the programs of the tests into dir.
func BuildPrograms(t testing.TB, dir string) {
	t.Helper()
	for name, parent := range map[string]string{"nineply": "cmd", "nineply-mount": "cmd", "nineply-verifier": "cmd", "treesum": "e2e", "checker": "e2e"} {
		path := "github.com/nineply/nineply/" + parent + "/" + name
		if _, err := vmtest.BuildStatic(t.Context(), dir, path); err != nil {
			t.Fatal(err)
		}
	}
}

// StartDaemon starts the daemon and a keeper from the programs in bin.
func StartDaemon(t testing.TB, bin string, options DaemonOptions) *Daemon {
	t.Helper()
	if os.Geteuid() != 0 {
		vmtest.Require(t, fmt.Errorf("the daemon's mounts need root"))
	}
	dir := Dir(t)
	d := &Daemon{Dir: dir, bin: bin, config: filepath.Join(dir, "config.toml")}
	config := options.Config
	if !strings.Contains(config, "[fetch]") {
		config += "\n[fetch]\nbackground = false\n" // so that tests can count requests
	}
	if err := os.WriteFile(d.config, fmt.Appendf(nil, daemonConfig, dir, config), 0o600); err != nil {
		t.Fatal(err)
	}
	writeHosts(t, filepath.Join(dir, "certs.d"), options.Registries)
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.StartKeeper(t)
	d.Start(t)
	return d
}

// StartKeeper starts the keeper, again after it ended.
func (d *Daemon) StartKeeper(t testing.TB) {
	t.Helper()
	socket := filepath.Join(d.Dir, "state/keeper.sock")
	d.Keeper = Start(t, d.Dir, "keeper", nil, filepath.Join(d.bin, "nineply-mount"),
		"serve", "--socket", socket, "--connect", "unix:"+d.Socket())
	d.Keeper.Await(t, func() error {
		_, err := os.Stat(socket)
		return err
	})
}

// Start starts the daemon, again after Stop or Kill, and waits until it serves.
func (d *Daemon) Start(t testing.TB) {
	t.Helper()
	d.Process = Start(t, d.Dir, "daemon", nil, filepath.Join(d.bin, "nineply"),
		"daemon", "--config", d.config, "--keeper", "none")
	d.Await(t, func() error {
		_, err := d.Try(t, "status")
		return err
	})
}

// Socket is the unix socket that speaks 9P.
func (d *Daemon) Socket() string { return filepath.Join(d.Dir, "state/9p.sock") }

// Plugin is the snapshotter's entry for containerd.
func (d *Daemon) Plugin() *Plugin {
	return &Plugin{Name: "nineply", Socket: filepath.Join(d.Dir, "state/snapshotter.sock")}
}

// CLI runs the nineply command against this daemon and returns its output.
func (d *Daemon) CLI(t testing.TB, args ...string) string {
	t.Helper()
	out, err := d.Try(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Try runs the nineply command against this daemon.
func (d *Daemon) Try(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return TryRun(t, append([]string{filepath.Join(d.bin, "nineply"), "--config", d.config}, args...)...)
}

// Mount mounts an image at a fresh directory and unmounts it when the test
// ends, if it is still mounted then.
func (d *Daemon) Mount(t testing.TB, image string) string {
	t.Helper()
	dir, err := os.MkdirTemp(d.Dir, "mnt")
	if err != nil {
		t.Fatal(err)
	}
	d.CLI(t, "mount", image, dir)
	t.Cleanup(func() {
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Error(err)
		}
		if !strings.Contains(string(mounts), " "+dir+" ") {
			return
		}
		// The test's context has ended, so not through CLI.
		cleanup(t, filepath.Join(d.bin, "nineply"), "--config", d.config, "umount", dir)
	})
	return dir
}
