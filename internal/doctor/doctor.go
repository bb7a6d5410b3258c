// Package doctor looks at a machine and says whether Nineply can work on it:
// what is there, what is missing, and what to do about it. It changes nothing but,
// with [WriteContainerd], the configuration of containerd.
//
// Each check is one function that returns one [Finding]; [Run] makes them all.
package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nineply/nineply/internal/config"
	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
)

// Level says how bad a finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // something works less well, or an optional part is missing
	Fail Level = "fail" // the main job cannot work
)

// Finding is the outcome of one check.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do
}

// Options say what to look at.
type Options struct {
	Config           config.Config
	ContainerdConfig string // path of containerd's config.toml
	Root             string // file system root, "/" outside tests
	LookPath         func(string) (string, error)
	Output           func(ctx context.Context, name string, arg ...string) (string, error)
}

// Default are the options for this machine.
func Default(c config.Config, containerdConfig string) Options {
	return Options{
		Config: c, ContainerdConfig: containerdConfig, Root: "/", LookPath: exec.LookPath,
		Output: func(ctx context.Context, name string, arg ...string) (string, error) {
			out, err := exec.CommandContext(ctx, name, arg...).Output()
			return strings.TrimSpace(string(out)), err
		},
	}
}

// Run makes all checks, in an order that reads well.
func Run(ctx context.Context, o Options) []Finding {
	findings := []Finding{
		o.user(), o.kernel9P(ctx), o.fuse(), o.overlay(),
		o.program(ctx, "runc", "apt-get install runc", Warn), o.containerd(ctx), o.plugin(),
	}
	for _, socket := range []struct{ name, addr string }{
		{"control socket", o.Config.Listen.Control}, {"9P socket", o.Config.Listen.NineP[0]},
		{"snapshotter socket", o.Config.Listen.Snapshotter}, {"keeper socket", o.Config.Listen.Keeper},
	} {
		if socket.addr != "" {
			findings = append(findings, dial(ctx, socket.name, socket.addr))
		}
	}
	return append(findings, o.disk())
}

// Worst is the worst level among findings.
func Worst(findings []Finding) Level {
	worst := OK
	for _, f := range findings {
		if f.Level == Fail || (f.Level == Warn && worst == OK) {
			worst = f.Level
		}
	}
	return worst
}

func (o Options) user() Finding {
	if os.Geteuid() == 0 {
		return Finding{"user", OK, "root", ""}
	}
	return Finding{"user", Warn, "not root: mounts and the snapshotter need root", "run the daemon and the mount keeper as root"}
}

// hasFilesystem reports whether the running kernel lists a file system type.
func (o Options) hasFilesystem(name string) bool {
	f, err := os.Open(filepath.Join(o.Root, "proc/filesystems"))
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // read side
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if fields := strings.Fields(sc.Text()); len(fields) > 0 && fields[len(fields)-1] == name {
			return true
		}
	}
	return false
}

func (o Options) kernel9P(ctx context.Context) Finding {
	const check = "kernel 9p"
	if o.hasFilesystem("9p") {
		return Finding{check, OK, "built in or loaded: mounts in mode v9fs can be made", ""}
	}
	if _, err := o.Output(ctx, "modprobe", "--dry-run", "9p"); err == nil {
		return Finding{check, OK, "available as a module, loaded for mounts in mode v9fs", ""}
	}
	return Finding{check, Warn, "this kernel has no 9P client: mounts use FUSE, as they do by default", ""}
}

func (o Options) fuse() Finding {
	const check = "FUSE"
	if _, err := os.Stat(filepath.Join(o.Root, "dev/fuse")); err != nil {
		return Finding{check, Warn, err.Error(), "modprobe fuse"}
	}
	if !o.hasFilesystem("fuse") {
		return Finding{check, Warn, "the kernel does not list fuse", "modprobe fuse"}
	}
	return Finding{check, OK, "available", ""}
}

func (o Options) overlay() Finding {
	if o.hasFilesystem("overlay") {
		return Finding{"overlayfs", OK, "available", ""}
	}
	return Finding{"overlayfs", Fail, "the kernel does not list overlay: containers have no writable root", "modprobe overlay"}
}

func (o Options) program(ctx context.Context, name, fix string, missing Level) Finding {
	path, err := o.LookPath(name)
	if err != nil {
		return Finding{name, missing, "not installed", fix}
	}
	version, err := o.Output(ctx, path, "--version")
	if err != nil {
		return Finding{name, Warn, fmt.Sprintf("%s does not answer --version: %v", path, err), ""}
	}
	first, _, _ := strings.Cut(version, "\n")
	return Finding{name, OK, first, ""}
}

func (o Options) containerd(ctx context.Context) Finding {
	return o.program(ctx, "containerd", "apt-get install containerd (not needed for \"nineply mount\")", Warn)
}

// plugin checks containerd's configuration for the proxy plugin.
func (o Options) plugin() Finding {
	const check = "containerd plugin"
	text, err := os.ReadFile(o.ContainerdConfig)
	if err != nil {
		return Finding{check, Warn, err.Error(), "write this to " + o.ContainerdConfig + ":\n" + o.snippet()}
	}
	var c struct {
		Proxy map[string]struct {
			Type    string `toml:"type"`
			Address string `toml:"address"`
		} `toml:"proxy_plugins"`
	}
	if err := toml.Unmarshal(text, &c); err != nil {
		return Finding{check, Fail, fmt.Sprintf("%s: %v", o.ContainerdConfig, err), "mend the file; containerd cannot start with it"}
	}
	_, want, _ := strings.Cut(o.Config.Listen.Snapshotter, ":")
	for name, p := range c.Proxy {
		if p.Type == "snapshot" && p.Address == want {
			return Finding{check, OK, fmt.Sprintf("registered as snapshotter %q", name), ""}
		}
	}
	return Finding{check, Warn, fmt.Sprintf("%s has no proxy plugin with address %s", o.ContainerdConfig, want),
		"add to " + o.ContainerdConfig + " and restart containerd:\n" + o.snippet()}
}

// snippet is what containerd's configuration needs, for any version.
func (o Options) snippet() string {
	_, address, _ := strings.Cut(o.Config.Listen.Snapshotter, ":")
	return fmt.Sprintf(`[proxy_plugins.nineply]
  type = "snapshot"
  address = %q
  [proxy_plugins.nineply.exports]
    root = %q
    enable_remote_snapshot_annotations = "true"`, address, o.Config.Root)
}

// dial checks that a socket is served.
func dial(ctx context.Context, check, addr string) Finding {
	network, address, err := config.SplitAddress(addr)
	if err != nil {
		return Finding{check, Fail, err.Error(), "mend the address in the configuration"}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return Finding{check, Warn, fmt.Sprintf("%s: %v", address, errors.Unwrap(err)), "start the daemon: nineply daemon"}
	}
	_ = conn.Close() // only whether someone accepts matters
	return Finding{check, OK, address + " answers", ""}
}

// minFree is how much room the cache should have, bytes.
const minFree = 2 << 30

func (o Options) disk() Finding {
	const check = "disk"
	dir := o.Config.Root
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Finding{check, Warn, fmt.Sprintf("%s: %v", dir, err), ""}
	}
	free := int64(st.Bavail) * st.Bsize
	detail := fmt.Sprintf("%.1f GB free for %s", float64(free)/1e9, o.Config.Root)
	if free < minFree {
		return Finding{check, Warn, detail, "free some space, or lower cache.max_size"}
	}
	return Finding{check, OK, detail, ""}
}
