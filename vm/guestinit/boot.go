package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/vm/internal/bootspec"
)

// boot does everything and never returns: whatever happens, the guest is
// powered off, since nobody but the host's timeout would end it otherwise.
func boot() {
	report, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "guestinit:", err)
	}
	if report != nil {
		if err != nil {
			_, _ = fmt.Fprintln(report, "guestinit:", err)
			_, _ = report.Write(bootspec.Trailer(125))
		}
		_ = report.Sync()
		_ = report.Close()
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// run brings the guest up and runs its command. The report file is returned
// open: after a nil error it already ends with the exit status.
func run() (*os.File, error) {
	if err := mountKernelTrees(); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(bootspec.SpecPath)
	if err != nil {
		return nil, fmt.Errorf("boot spec: %w", err)
	}
	var spec bootspec.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("boot spec: %w", err)
	}
	for _, name := range spec.Modules {
		if err := loadModule(filepath.Join(bootspec.ModuleDir, name)); err != nil {
			return nil, err
		}
	}
	report, err := openReport(&spec)
	if err != nil {
		return nil, err
	}
	if spec.Interface != "" {
		if err := configureNetwork(spec.Interface); err != nil {
			return report, err
		}
	}
	if err := enterRoot(&spec); err != nil {
		return report, err
	}
	status, err := runCommand(&spec, report)
	if err != nil {
		return report, err
	}
	_, err = report.Write(bootspec.Trailer(status))
	return report, err
}

func mountKernelTrees() error {
	for _, m := range []bootspec.Mount{
		{Source: "proc", Target: "/proc", Type: "proc"},
		{Source: "sysfs", Target: "/sys", Type: "sysfs"},
		{Source: "devtmpfs", Target: "/dev", Type: "devtmpfs"},
		{Source: "tmpfs", Target: "/run", Type: "tmpfs", Options: "mode=755"},
	} {
		if err := mount(m); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return nil
}

func mount(m bootspec.Mount) error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return fmt.Errorf("mount point %s: %w", m.Target, err)
	}
	var flags uintptr
	if m.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount(m.Source, m.Target, m.Type, flags, m.Options); err != nil {
		return fmt.Errorf("mount %s (%s) at %s: %w", m.Source, m.Type, m.Target, err)
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("module: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", filepath.Base(path), err)
	}
	return nil
}

// openReport opens the way back to the host. A virtio-serial port appears some
// time after its module was loaded, so that one is waited for.
func openReport(spec *bootspec.Spec) (*os.File, error) {
	if spec.Port == "" {
		m := spec.Report
		m.Target = "/nineply-report"
		if err := mount(m); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(m.Target+"/report", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			return nil, fmt.Errorf("report: %w", err)
		}
		return f, nil
	}
	for range 500 {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, fmt.Errorf("report port: %w", err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err == nil && strings.TrimSpace(string(text)) == spec.Port {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(name)), os.O_WRONLY, 0)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, fmt.Errorf("report port %s did not appear", spec.Port)
}

// runCommand runs the command and, being the first process, waits for
// everything that it leaves behind without blocking on it.
func runCommand(spec *bootspec.Spec, report io.Writer) (int, error) {
	cmd := exec.Command(spec.Argv[0], spec.Argv[1:]...)
	cmd.Env, cmd.Dir = spec.Env, spec.Dir
	cmd.Stdout, cmd.Stderr = report, report
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), nil
	case errors.As(err, &exit):
		return 128, nil
	default:
		return -1, fmt.Errorf("run %q: %w", spec.Argv, err)
	}
}
