package vmtest

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/nineply/nineply/vm/vmtest/internal/bootspec"
)

const (
	qemuProgram = "qemu-system-x86_64"
	reportPort  = "nineply.report"
)

// RunQEMU boots g under QEMU with the newest Debian kernel of the host and
// returns what its script did; see [RunUML] for skipping and errors. The CPU is
// emulated (NINEPLY_QEMU_ACCEL=kvm uses the host's, where that works).
func RunQEMU(ctx context.Context, t testing.TB, g Guest) (*Result, error) {
	t.Helper()
	Require(t, missingQEMU())
	release, err := kernelRelease()
	if err != nil {
		return nil, err
	}
	return start(ctx, t, g, machine{
		kernelModules: "/lib/modules/" + release,
		modules: []string{
			"virtio_pci", "virtio_console", "virtio_net", "9pnet_virtio",
			"9pnet_fd", "9p", "overlay", "fuse",
		},
		iface: "eth0",
		port:  reportPort,
		mountOf: func(tag int, _ string) bootspec.Mount {
			return bootspec.Mount{
				Source: mountTag(tag), Type: "9p",
				Options: "trans=virtio,version=9p2000.L,msize=512000,access=any,cache=loose",
			}
		},
		command: func(r *run) ([]string, error) { return qemuCommand(r, release), nil },
	})
}

func mountTag(tag int) string { return "host" + strconv.Itoa(tag) }

func qemuCommand(r *run, release string) []string {
	argv := []string{
		qemuProgram, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35", "-accel", cmp.Or(os.Getenv("NINEPLY_QEMU_ACCEL"), "tcg"), "-cpu", "max",
		"-smp", strconv.Itoa(r.CPUs), "-m", strconv.Itoa(r.MemoryMiB),
		"-kernel", "/boot/vmlinuz-" + release, "-initrd", r.initrd,
		"-append", "console=ttyS0 quiet panic=-1",
		"-serial", "stdio", "-monitor", "none",
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-device", "virtio-serial-pci",
		"-chardev", "file,id=report,path=" + r.report,
		"-device", "virtserialport,chardev=report,name=" + reportPort,
	}
	for tag, dir := range r.dirs {
		readOnly := "off"
		if dir == r.Root {
			readOnly = "on"
		}
		argv = append(argv, "-virtfs", fmt.Sprintf("local,path=%s,mount_tag=%s,security_model=none,multidevs=remap,readonly=%s",
			dir, mountTag(tag), readOnly))
	}
	return argv
}

// kernelRelease finds the newest kernel that has both an image and modules.
func kernelRelease() (string, error) {
	images, err := filepath.Glob("/boot/vmlinuz-*")
	if err != nil {
		return "", fmt.Errorf("guest kernel: %w", err)
	}
	slices.SortFunc(images, byTime)
	for _, image := range slices.Backward(images) {
		release := image[len("/boot/vmlinuz-"):]
		if _, err := os.Stat("/lib/modules/" + release + "/modules.dep"); err == nil {
			return release, nil
		}
	}
	return "", fmt.Errorf("no kernel image with modules in /boot")
}

func byTime(a, b string) int {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	if errA != nil || errB != nil {
		return cmp.Compare(a, b)
	}
	return infoA.ModTime().Compare(infoB.ModTime())
}

func missingQEMU() error {
	if err := missingGuest(); err != nil {
		return err
	}
	if _, err := exec.LookPath(qemuProgram); err != nil {
		return fmt.Errorf("qemu-system-x86 is not installed: %w", err)
	}
	_, err := kernelRelease()
	return err
}
