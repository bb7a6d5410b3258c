package doctor_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/doctor"
)

// machine is a made-up machine that doctor looks at.
func machine(t *testing.T, filesystems string, programs map[string]string) doctor.Options {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"proc", "dev", "lib", "run"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "proc/filesystems"), filesystems)
	return doctor.Options{
		Config: config.Default(filepath.Join(root, "lib/nineply"), filepath.Join(root, "run")), Root: root,
		ContainerdConfig: filepath.Join(root, "containerd.toml"),
		LookPath: func(name string) (string, error) {
			if _, ok := programs[name]; ok {
				return name, nil
			}
			return "", errors.New("not found")
		},
		Output: func(_ context.Context, name string, _ ...string) (string, error) {
			if v, ok := programs[name]; ok && v != "" {
				return v, nil
			}
			return "", errors.New("exit status 1")
		},
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, findings []doctor.Finding, check string) doctor.Finding {
	t.Helper()
	for _, f := range findings {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no check %q in %+v", check, findings)
	return doctor.Finding{}
}

func TestHealthyMachine(t *testing.T) {
	o := machine(t, "nodev\toverlay\nnodev\t9p\n\tfuseblk\nnodev\tfuse\n", map[string]string{"runc": "runc version 1", "containerd": "containerd 2\nmore"})
	write(t, filepath.Join(o.Root, "dev/fuse"), "")
	_, sock, _ := strings.Cut(o.Config.Listen.Snapshotter, ":")
	write(t, o.ContainerdConfig, "[proxy_plugins.lazy]\ntype='snapshot'\naddress='"+sock+"'\n")
	for _, addr := range []string{o.Config.Listen.NineP[0], o.Config.Listen.Control, o.Config.Listen.Snapshotter, o.Config.Listen.Keeper} {
		network, address, _ := strings.Cut(addr, ":")
		ln, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
	}
	for _, f := range doctor.Run(t.Context(), o) {
		if f.Level != doctor.OK && f.Check != "user" && f.Check != "disk" {
			t.Errorf("%+v", f)
		}
	}
}

func TestBareMachineIsToldWhatToDo(t *testing.T) {
	o := machine(t, "\text4\n", nil)
	findings := doctor.Run(t.Context(), o)
	if doctor.Worst(findings) != doctor.Fail {
		t.Error("a machine without overlayfs is not a failure")
	}
	for check, want := range map[string]struct {
		level doctor.Level
		fix   string
	}{
		"overlayfs":         {doctor.Fail, "modprobe overlay"},
		"FUSE":              {doctor.Warn, "modprobe fuse"},
		"kernel 9p":         {doctor.Warn, ""},
		"runc":              {doctor.Warn, "runc"},
		"containerd":        {doctor.Warn, "containerd"},
		"containerd plugin": {doctor.Warn, "[proxy_plugins.nineply]"},
		"control socket":    {doctor.Warn, "nineply daemon"},
	} {
		if f := find(t, findings, check); f.Level != want.level || !strings.Contains(f.Fix, want.fix) {
			t.Errorf("%s: %+v", check, f)
		}
	}
}

func TestContainerdConfigurations(t *testing.T) {
	for name, tt := range map[string]struct {
		text  string
		level doctor.Level
	}{
		"broken file":   {"[proxy_plugins", doctor.Fail},
		"other address": {"[proxy_plugins.x]\ntype='snapshot'\naddress='/elsewhere'\n", doctor.Warn},
		"other type":    {"[proxy_plugins.x]\ntype='content'\naddress='/run/x'\n", doctor.Warn},
	} {
		t.Run(name, func(t *testing.T) {
			o := machine(t, "nodev\toverlay\n", nil)
			write(t, o.ContainerdConfig, tt.text)
			if f := find(t, doctor.Run(t.Context(), o), "containerd plugin"); f.Level != tt.level || f.Fix == "" {
				t.Errorf("%+v", f)
			}
		})
	}
}
