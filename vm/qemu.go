package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nineply/nineply/vm/internal/bootspec"
)

const (
	qemuProgram = "qemu-system-x86_64"
	reportPort  = "nineply.report"
)

// RunQEMU boots g under QEMU with a Debian kernel and
// returns what its script did; see [RunUML] for dir and errors. The CPU is
// emulated (NINEPLY_QEMU_ACCEL=kvm uses the host's, where that works).
func RunQEMU(ctx context.Context, dir string, g Guest) (*Result, error) {
	image, modules, err := findKernel()
	if err != nil {
		return nil, err
	}
	return start(ctx, dir, g, machine{
		kernelModules: modules,
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
		command: func(r *run) ([]string, error) { return qemuCommand(r, image), nil },
	})
}

func mountTag(tag int) string { return "host" + strconv.Itoa(tag) }

func qemuCommand(r *run, image string) []string {
	argv := []string{
		qemuProgram, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35", "-accel", cmp.Or(os.Getenv("NINEPLY_QEMU_ACCEL"), "tcg"), "-cpu", "max",
		"-smp", strconv.Itoa(r.CPUs), "-m", strconv.Itoa(r.MemoryMiB),
		"-kernel", image, "-initrd", r.initrd,
		"-append", "console=ttyS0 quiet panic=-1",
		"-serial", "stdio", "-monitor", "none",
		"-netdev", "user,id=net" + guestForwards(r.Forwards), "-device", "virtio-net-pci,netdev=net,romfile=",
		"-device", "virtio-serial-pci",
		"-chardev", "file,id=report,path=" + r.report,
		"-device", "virtserialport,chardev=report,name=" + reportPort,
	}
	for _, port := range sortedPorts(r.Forwards) {
		argv = append(argv, "-chardev", fmt.Sprintf("socket,id=fwd%d,path=%s", port, r.Forwards[port]))
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

// guestForwards joins ports of the guest's network with chardevs. The address
// must not be that of slirp's own services.
func guestForwards(forwards map[int]string) string {
	var options strings.Builder
	for _, port := range sortedPorts(forwards) {
		fmt.Fprintf(&options, ",guestfwd=tcp:%s:%d-chardev:fwd%d", ForwardAddress, port, port)
	}
	return options.String()
}

func sortedPorts(forwards map[int]string) []int {
	return slices.Sorted(maps.Keys(forwards))
}

// findKernel finds the newest kernel that has both an image and modules: one
// unpacked for guests in the cache directory ($NINEPLY_CACHE, else nineply in
// the user's), or one installed.
func findKernel() (image, modules string, err error) {
	cache := os.Getenv("NINEPLY_CACHE")
	if base, err := os.UserCacheDir(); cache == "" && err == nil {
		cache = filepath.Join(base, "nineply")
	}
	for _, root := range []string{filepath.Join(cache, "guest-kernel"), "/"} {
		images, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
		if err != nil {
			return "", "", fmt.Errorf("guest kernel: %w", err)
		}
		slices.SortFunc(images, byTime)
		for _, image := range slices.Backward(images) {
			release := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
			modules := filepath.Join(root, "lib/modules", release)
			if _, err := os.Stat(filepath.Join(modules, "modules.dep")); err == nil {
				return image, modules, nil
			}
		}
	}
	return "", "", errors.New("no kernel image with modules for guests")
}

func byTime(a, b string) int {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	if errA != nil || errB != nil {
		return cmp.Compare(a, b)
	}
	return infoA.ModTime().Compare(infoB.ModTime())
}

// MissingQEMU says what [RunQEMU] needs and this machine lacks, nil if nothing.
func MissingQEMU() error {
	if err := missingGuest(); err != nil {
		return err
	}
	if _, err := exec.LookPath(qemuProgram); err != nil {
		return fmt.Errorf("qemu-system-x86 is not installed: %w", err)
	}
	_, _, err := findKernel()
	return err
}
