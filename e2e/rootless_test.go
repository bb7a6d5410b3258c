package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/vm/vmtest"
)

// rootlessScript is what the user runs as root of the namespaces that rootlesskit
// made: a daemon with no configuration but where the registry is, a containerd, and
// a container. $1 is the image, $2 where its registry speaks plain HTTP.
const rootlessScript = `set -e
rm -f /run/containerd /run/runc # links to what is not this user's
hosts=$HOME/.config/containerd/certs.d
mkdir -p "$hosts/$2"
echo "server = \"http://$2\"" > "$hosts/$2/hosts.toml"
mkdir -p "$HOME/.config/nineply"
printf '[fetch]\nbackground = false\n' > "$HOME/.config/nineply/config.toml"
cat > "$XDG_RUNTIME_DIR/containerd.toml" <<EOF
version = 3
root = "$HOME/containerd"
state = "$XDG_RUNTIME_DIR/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
[grpc]
address = "$XDG_RUNTIME_DIR/c.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "$HOME/opt"
[plugins."io.containerd.transfer.v1.local"]
config_path = "$hosts"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/amd64"
snapshotter = "nineply"
[proxy_plugins.nineply]
type = "snapshot"
address = "$XDG_RUNTIME_DIR/nineply/snapshotter.sock"
[proxy_plugins.nineply.exports]
root = "$HOME/containerd"
enable_remote_snapshot_annotations = "true"
EOF
nineply daemon > "$HOME/daemon.log" 2>&1 & daemon=$!
containerd --config "$XDG_RUNTIME_DIR/containerd.toml" > "$HOME/containerd.log" 2>&1 & containerd=$!
finish() { kill $daemon $containerd 2>/dev/null; wait; [ "$1" = 0 ] || tail -n 30 "$HOME"/*.log >&2; exit "$1"; }
trap 'finish $?' EXIT
try() { i=0; until "$@" > /dev/null 2>&1; do i=$((i + 1)); [ $i -lt 600 ] || return 1; sleep 0.1; done; }
try nineply status
ctr() { command ctr --address "$XDG_RUNTIME_DIR/c.sock" "$@"; }
try ctr version
ctr images pull --hosts-dir "$hosts" --snapshotter nineply "$1" > /dev/null
echo "blobs $(ctr content ls --quiet | wc -l)"
ctr run --rm --snapshotter nineply --cgroup "" --cpu-shares 0 "$1" one
echo "state $(stat -c %u "$XDG_RUNTIME_DIR/nineply")"
nineply status
ctr images rm --sync "$1" > /dev/null
`

// rootlessUser makes an unprivileged user with a home and a runtime directory, and
// gives the command line before what the user is to run in namespaces of their own.
func rootlessUser(t *testing.T) (dir string, prefix []string) {
	t.Helper()
	for program, from := range map[string]string{"rootlesskit": "rootlesskit", "newuidmap": "uidmap", "useradd": "passwd", "setpriv": "util-linux"} {
		if _, err := exec.LookPath(program); err != nil {
			vmtest.Require(t, fmt.Errorf("%s is not installed (package %s): %w", program, from, err))
		}
	}
	dir = harness.Dir(t)
	must(t, os.Chmod(dir, 0o755)) //nolint:gosec // the user has to get in
	name := "np" + strconv.Itoa(os.Getpid())
	harness.Run(t, "useradd", "--home-dir", dir+"/home", "--create-home", "--shell", "/bin/sh", name)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if out, err := exec.CommandContext(ctx, "userdel", name).CombinedOutput(); err != nil {
			t.Errorf("userdel: %v: %s", err, out)
		}
	})
	run := filepath.Join(dir, "run")
	must(t, os.Mkdir(run, 0o700))
	harness.Run(t, "chown", name+":", run)
	cache, err := demoimage.CacheDir()
	must(t, err)
	found, err := filepath.Glob(filepath.Join(cache, "containerd-v2*", "bin"))
	if err != nil || len(found) == 0 {
		vmtest.Require(t, fmt.Errorf("no containerd 2.x in %s: run deploy/install-deps.sh test", cache))
	}
	bin := filepath.Join(dir, "bin")
	must(t, os.Mkdir(bin, 0o755)) //nolint:gosec // as above
	harness.Run(t, "sh", "-c", `cp "$1"/nineply "$1"/nineply-mount "$2"/* "$3" && chmod 755 "$3"/*`, "sh", programs, found[len(found)-1], bin)
	return dir, []string{
		"setpriv", "--reuid", name, "--regid", name, "--clear-groups", "env", "-i", "-C", "/", "HOME=" + dir + "/home", "USER=" + name,
		"XDG_RUNTIME_DIR=" + run, "PATH=" + bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"rootlesskit", "--net=host", "--pidns", "--state-dir=" + run + "/rootlesskit", "--copy-up=/run",
	}
}

// TestRootless: an unprivileged user runs a container from an image that was never
// pulled: daemon, keeper, containerd and runc all live in a user namespace.
func TestRootless(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	_, prefix := rootlessUser(t)
	site.proxy.Reset()
	out := harness.Run(t, append(prefix, "sh", "-c", rootlessScript, "sh", site.ref("lazy"), site.proxy.Addr)...)
	t.Log(out)
	fetched, total := site.proxy.Counts().BlobBytes(), site.image.Size()
	t.Logf("%d of %d bytes fetched", fetched, total)
	if !strings.Contains(out, greeting) || !strings.Contains(out, "blobs 2\n") {
		t.Error("no greeting, or layers in the content store")
	}
	if fetched > total/4 {
		t.Errorf("%d of %d bytes fetched", fetched, total)
	}
}
