package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nineply/nineply/internal/coldstart"
	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/daemon"
	"github.com/nineply/nineply/internal/demoimage"
)

// Options tune the demonstration.
type Options struct {
	Program  string             // the nineply to start as daemon
	Progress func(words string) // told each step before it begins; may be nil
}

// Start is one of the two starts. Times are seconds, sizes bytes.
type Start struct {
	Pull    float64 `json:"pull_s"`
	Create  float64 `json:"create_s"`
	Run     float64 `json:"run_s"`
	Total   float64 `json:"total_s"`
	Fetched int64   `json:"bytes_fetched"` // when the line was printed
	Size    int64   `json:"bytes_total"`   // of the image's layers
}

// Result is what was measured.
type Result struct {
	Line      string `json:"line"`
	Overlayfs Start  `json:"overlayfs"`
	Nineply   Start  `json:"nineply"`
}

// demo is one run of the demonstration.
type demo struct {
	opts Options
	dir  string
	stop []func() error // in reverse order

	registry *proxy
	plain    string // reference of the image as it is
	lazy     string // and converted
	sizes    map[string]int64
	socket   string // containerd's
}

// packages are the programs needed, by the Debian package that has them.
var packages = [][2]string{ //nolint:gochecknoglobals // a constant table
	{"containerd", "containerd"}, {"runc", "runc"}, {"docker-registry", "docker-registry"}, {"debootstrap", "debootstrap"}, {"skopeo", "skopeo"},
}

// Run makes the demonstration. It needs root.
func Run(ctx context.Context, opts Options) (res Result, err error) {
	if os.Geteuid() != 0 {
		return res, errors.New("the demonstration needs root: it mounts file systems and starts containers")
	}
	for _, p := range packages {
		if _, err := exec.LookPath(p[0]); err != nil {
			return res, fmt.Errorf("%s is not installed: apt-get install %s, or \"make demo\", which installs everything: %w", p[0], p[1], err)
		}
	}
	dir, err := os.MkdirTemp("", "nineply-demo-")
	if err != nil {
		return res, fmt.Errorf("demo: %w", err)
	}
	d := &demo{opts: opts, dir: dir, sizes: map[string]int64{}}
	d.onStop(func() error { return os.RemoveAll(dir) })
	defer func() {
		for i := len(d.stop) - 1; i >= 0; i-- {
			err = errors.Join(err, d.stop[i]())
		}
	}()
	for _, step := range []func(context.Context) error{d.startRegistry, d.pushImage, d.startDaemon, d.startContainerd} {
		if err := step(ctx); err != nil {
			return res, err
		}
	}
	return d.measure(ctx)
}

func (d *demo) onStop(fn func() error) { d.stop = append(d.stop, fn) }

func (d *demo) say(format string, args ...any) {
	if d.opts.Progress != nil {
		d.opts.Progress(fmt.Sprintf(format, args...))
	}
}

// pushImage makes the image, and puts it into the registry in both forms.
func (d *demo) pushImage(ctx context.Context) error {
	im, err := demoimage.Build(ctx, demoimage.Options{Progress: d.opts.Progress})
	if err != nil {
		return err
	}
	d.plain, d.lazy = d.registry.addr+"/demo:plain", d.registry.addr+"/demo:lazy"
	d.say("pushing the image of %.1f MB to a registry on the loopback interface", float64(im.Size())/1e6)
	if err := im.Push(ctx, d.plain); err != nil {
		return err
	}
	d.sizes[d.plain] = im.Size()
	d.say("converting it")
	src := daemon.Sources(config.Default(d.dir, d.dir))
	res, err := convert.Convert(ctx, src, d.plain, src, d.lazy, convert.Options{TempDir: d.dir})
	if err := errors.Join(err, src.Close()); err != nil {
		return err
	}
	d.sizes[d.lazy] = res.Size
	return nil
}

// startDaemon starts nineply with directories of its own.
func (d *demo) startDaemon(ctx context.Context) error {
	root, state := filepath.Join(d.dir, "root"), filepath.Join(d.dir, "run")
	p, err := start(ctx, d.dir, "daemon", nil, d.opts.Program, "--state", state, "daemon", "--root", root)
	if err != nil {
		return err
	}
	d.onStop(func() error { return errors.Join(p.stop(), stopKeeper(state)) })
	return p.await(ctx, func() error { return dialUnix(filepath.Join(state, "snapshotter.sock")) })
}

// startContainerd starts a containerd that knows nothing but this registry.
func (d *demo) startContainerd(ctx context.Context) error {
	dir := filepath.Join(d.dir, "containerd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d.socket = filepath.Join(dir, "c.sock")
	file := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf(containerdConfig, dir, filepath.Join(d.dir, "run", "snapshotter.sock"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	p, err := start(ctx, d.dir, "containerd", nil, "containerd", "--config", file)
	if err != nil {
		return err
	}
	d.onStop(p.stop)
	return p.await(ctx, func() error { return dialUnix(d.socket) })
}

// containerdConfig takes containerd's directory and the plugin's socket. It is
// understood by 1.6 and, migrated, by 2.x.
const containerdConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "%[1]s/c.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "%[1]s/opt"
[proxy_plugins.nineply]
type = "snapshot"
address = "%[2]s"
`

// measure starts the container both ways.
func (d *demo) measure(ctx context.Context) (Result, error) {
	var res Result
	for _, m := range []struct {
		snapshotter, ref string
		into             *Start
	}{{"overlayfs", d.plain, &res.Overlayfs}, {"nineply", d.lazy, &res.Nineply}} {
		d.say("starting the container with %s", m.snapshotter)
		d.registry.bytes.Store(0)
		got, err := coldstart.Run(ctx, coldstart.Spec{
			Address: d.socket, Snapshotter: m.snapshotter, Ref: m.ref, PlainHTTP: true,
			AtLine: func() { m.into.Fetched = d.registry.bytes.Load() },
		})
		if err != nil {
			return res, fmt.Errorf("with %s: %w", m.snapshotter, err)
		}
		if res.Line != "" && got.Line != res.Line {
			return res, fmt.Errorf("the container printed %q with overlayfs and %q with %s", res.Line, got.Line, m.snapshotter)
		}
		res.Line = got.Line
		m.into.Pull, m.into.Create, m.into.Run, m.into.Total = got.Pull, got.Create, got.Run, got.Total
		m.into.Size = d.sizes[m.ref]
	}
	return res, nil
}

func dialUnix(path string) error {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}
