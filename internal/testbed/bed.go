package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

// Bed is a temporary directory and the processes that run in it. It is for one
// goroutine.
type Bed struct {
	Dir  string
	stop []func() error // in reverse order
}

// New makes an empty bed. It needs root: file systems will be mounted and
// containers started.
func New(name string) (*Bed, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("this needs root: it mounts file systems and starts containers")
	}
	dir, err := os.MkdirTemp("", "nineply-"+name+"-")
	if err != nil {
		return nil, err
	}
	b := &Bed{Dir: dir}
	b.OnClose(func() error { return os.RemoveAll(dir) })
	return b, nil
}

// OnClose has fn called by Close, before what was there earlier.
func (b *Bed) OnClose(fn func() error) { b.stop = append(b.stop, fn) }

// Close ends everything, last first, and removes the directory.
func (b *Bed) Close() error {
	var err error
	for len(b.stop) > 0 {
		last := len(b.stop) - 1
		err = errors.Join(err, b.stop[last]())
		b.stop = b.stop[:last]
	}
	return err
}

// Require fails unless Debian's packages with these programs are installed; a
// program is called like its package.
func Require(programs ...string) error {
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s is not installed: apt-get install %s, or \"make demo\", which installs everything: %w", name, name, err)
		}
	}
	return nil
}

const registryConfig = `version: 0.1
log: {level: info}
storage:
  filesystem: {rootdirectory: %s}
http:
  addr: 127.0.0.1:0
  relativeurls: true
`

var listeningOn = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

// StartRegistry starts an empty docker-registry, and gives its address, host and
// port.
func (b *Bed) StartRegistry(ctx context.Context) (addr string, err error) {
	file := filepath.Join(b.Dir, "registry.yml")
	text := fmt.Sprintf(registryConfig, filepath.Join(b.Dir, "registry"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", err
	}
	p, err := start(ctx, b.Dir, "registry", []string{"OTEL_TRACES_EXPORTER=none"}, "docker-registry", "serve", file)
	if err != nil {
		return "", err
	}
	b.OnClose(p.stop)
	err = p.await(ctx, func() error {
		log, err := os.ReadFile(p.log.Name())
		if err != nil {
			return err
		}
		match := listeningOn.FindSubmatch(log)
		if match == nil {
			return errors.New("not listening yet")
		}
		addr = string(match[1])
		return nil
	})
	return addr, err
}

// Daemon is a nineply with directories of its own.
type Daemon struct {
	Control     string // unix socket of the control API
	Snapshotter string // unix socket of the plugin for containerd
}

// StartDaemon starts the nineply program, with extra configuration in TOML that
// must not name directories.
func (b *Bed) StartDaemon(ctx context.Context, program, extra string) (Daemon, error) {
	root, state := filepath.Join(b.Dir, "root"), filepath.Join(b.Dir, "run")
	d := Daemon{Control: filepath.Join(state, "control.sock"), Snapshotter: filepath.Join(state, "snapshotter.sock")}
	argv := []string{program, "--state", state, "daemon", "--root", root}
	if extra != "" {
		file := filepath.Join(b.Dir, "nineply.toml")
		if err := os.WriteFile(file, []byte(extra), 0o600); err != nil {
			return d, err
		}
		argv = []string{program, "--config", file, "--state", state, "daemon", "--root", root}
	}
	p, err := start(ctx, b.Dir, "daemon", nil, argv...)
	if err != nil {
		return d, err
	}
	b.OnClose(func() error { return errors.Join(p.stop(), stopKeeper(state)) })
	return d, p.await(ctx, func() error { return dialUnix(ctx, d.Snapshotter) })
}

// StartContainerd starts a containerd whose only plugin is the snapshotter
// "nineply", and gives its socket.
func (b *Bed) StartContainerd(ctx context.Context, d Daemon) (socket string, err error) {
	dir := filepath.Join(b.Dir, "containerd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	file, socket := filepath.Join(dir, "config.toml"), filepath.Join(dir, "c.sock")
	if err := os.WriteFile(file, fmt.Appendf(nil, containerdConfig, dir, d.Snapshotter), 0o600); err != nil {
		return "", err
	}
	p, err := start(ctx, b.Dir, "containerd", nil, "containerd", "--config", file)
	if err != nil {
		return "", err
	}
	b.OnClose(p.stop)
	return socket, p.await(ctx, func() error { return dialUnix(ctx, socket) })
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

func dialUnix(ctx context.Context, path string) error {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return err
	}
	return conn.Close()
}
