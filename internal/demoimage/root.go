package demoimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debootstrap makes a minimal root of the archive's suite in root.
func debootstrap(ctx context.Context, root string, a archive) error {
	args := []string{"--variant=minbase"}
	if a.Keyring != "" {
		args = append(args, "--keyring="+a.Keyring)
	}
	if err := run(exec.CommandContext(ctx, "debootstrap", append(args, a.Suite, root, a.URI)...)); err != nil {
		return err
	}
	return tidy(ctx, root)
}

// installPackages installs packages in the root with its own apt, using the
// name resolution and proxies of this machine.
func installPackages(ctx context.Context, root string, packages ...string) error {
	for _, name := range []string{"etc/resolv.conf", "etc/hosts"} {
		text, err := os.ReadFile("/" + name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("network of the root: %w", err)
		}
		if err := os.WriteFile(filepath.Join(root, name), text, 0o644); err != nil {
			return fmt.Errorf("network of the root: %w", err)
		}
	}
	options, err := aptOptions(ctx)
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"update", "-qq"},
		append([]string{"install", "-qq", "-y", "--no-install-recommends"}, packages...),
	} {
		cmd := inRoot(ctx, root, "apt-get", append(options, args...)...)
		if err := run(cmd); err != nil {
			return err
		}
	}
	return tidy(ctx, root)
}

// aptOptions repeats those settings of this machine's apt without which it may
// not reach its archive: proxies, and whether old release files are good.
func aptOptions(ctx context.Context) ([]string, error) {
	dump, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-config dump: %w", err)
	}
	var options []string
	for line := range strings.Lines(string(dump)) {
		name, value, ok := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), ";"), " ")
		if ok && strings.HasPrefix(name, "Acquire::") && (strings.Contains(name, "roxy") || strings.HasPrefix(name, "Acquire::Check-")) {
			options = append(options, "-o", name+"="+strings.Trim(value, `"`))
		}
	}
	return options, nil
}

// tidy removes from the root what is only of use while installing, and what
// belongs to the machine it was made on.
func tidy(ctx context.Context, root string) error {
	if err := run(inRoot(ctx, root, "apt-get", "clean")); err != nil {
		return err
	}
	for _, pattern := range []string{"var/lib/apt/lists/*", "var/log/*.log", "var/log/apt/*", "var/cache/ldconfig/*", "tmp/*"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return fmt.Errorf("tidy root: %w", err)
		}
		for _, path := range paths {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("tidy root: %w", err)
			}
		}
	}
	for name, text := range map[string]string{
		"etc/resolv.conf": "", "etc/hostname": "nineply\n", "etc/machine-id": "",
		"etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("tidy root: %w", err)
		}
	}
	return nil
}

// inRoot is a command run in the root.
func inRoot(ctx context.Context, root, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "chroot", append([]string{root, program}, args...)...)
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true",
	}
	return cmd
}

// maxTail bounds how much of a failed command's output its error repeats.
const maxTail = 2000

// run runs a command; its output is in the error if it fails.
func run(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		tail := out.Bytes()
		if len(tail) > maxTail {
			tail = tail[len(tail)-maxTail:]
		}
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(tail))
	}
	return nil
}
