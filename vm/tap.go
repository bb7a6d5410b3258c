package vm

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/vm/internal/bootspec"
)

// makeTap creates the tap device in the calling thread's network namespace,
// gives it HostAddress and brings it and the loopback up.
func makeTap() error {
	tun, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	defer unix.Close(tun) //nolint:errcheck // the device persists without it
	ifr, err := unix.NewIfreq(tapName)
	if err != nil {
		return fmt.Errorf("tap device: %w", err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("tap device: create: %w", err)
	}
	if err := unix.IoctlSetInt(tun, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("tap device: keep: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("tap device: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	prefix, err := netip.ParsePrefix(bootspec.GuestCIDR)
	if err != nil {
		return fmt.Errorf("tap device: %w", err)
	}
	host, err := netip.ParseAddr(HostAddress)
	if err != nil {
		return fmt.Errorf("tap device: %w", err)
	}
	if err := setInet4(fd, unix.SIOCSIFADDR, host.AsSlice()); err != nil {
		return err
	}
	if err := setInet4(fd, unix.SIOCSIFNETMASK, net.CIDRMask(prefix.Bits(), 32)); err != nil {
		return err
	}
	if err := bringUp(fd, "lo"); err != nil {
		return err
	}
	return bringUp(fd, tapName)
}

func setInet4(fd int, request uint, address []byte) error {
	ifr, err := unix.NewIfreq(tapName)
	if err != nil {
		return fmt.Errorf("tap device: %w", err)
	}
	if err := ifr.SetInet4Addr(address); err != nil {
		return fmt.Errorf("tap device: %w", err)
	}
	if err := unix.IoctlIfreq(fd, request, ifr); err != nil {
		return fmt.Errorf("tap device: set address: %w", err)
	}
	return nil
}

func bringUp(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("interface %s: bring up: %w", name, err)
	}
	return nil
}
