package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/vm/internal/bootspec"
)

// configureNetwork gives the interface its address and brings it and the
// loopback up. Everything the guest talks to is on the link: no route needed.
// The interface may appear some time after its driver was loaded.
func configureNetwork(name string) error {
	prefix, err := netip.ParsePrefix(bootspec.GuestCIDR)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	for range 500 {
		_, err := os.Stat("/sys/class/net/" + name)
		if err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	if err := bringUp(fd, "lo"); err != nil {
		return err
	}
	mask := net.CIDRMask(prefix.Bits(), 32)
	if err := setInet4(fd, name, unix.SIOCSIFADDR, prefix.Addr().AsSlice()); err != nil {
		return err
	}
	if err := setInet4(fd, name, unix.SIOCSIFNETMASK, mask); err != nil {
		return err
	}
	return bringUp(fd, name)
}

func setInet4(fd int, name string, request uint, address []byte) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if err := ifr.SetInet4Addr(address); err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, request, ifr); err != nil {
		return fmt.Errorf("interface %s: set address: %w", name, err)
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

// signal sends its arguments as one line and prints the one-line answer.
func signal(args []string) (err error) {
	address := net.JoinHostPort(bootspec.HostAddress, strconv.Itoa(bootspec.SignalPort))
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := fmt.Fprintln(conn, strings.Join(args, " ")); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	fmt.Print(answer)
	return nil
}
