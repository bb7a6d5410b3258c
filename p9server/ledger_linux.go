//go:build linux && (amd64 || arm64)

package p9server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// heldSocket sends and receives so that the kernel itself notes, in the ledger and
// before anything can end the process, how many bytes there were: recvmmsg(2) and
// sendmmsg(2) do, other than read(2) and write(2).
type heldSocket struct {
	raw     syscall.RawConn
	iov     [4]unix.Iovec
	at      uint32 // mmsghdr in use
	result  uintptr
	errno   syscall.Errno
	receive func(fd uintptr) bool
	send    func(fd uintptr) bool

	sendAt     uint32
	sendErrno  syscall.Errno
	sendResult uintptr
}

const ledgerSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// NewLedger makes the shared memory for one session (see [Server.ServeHeld]).
// Its size is what it may grow to; only what is used takes memory.
func NewLedger() (*os.File, error) {
	fd, err := unix.MemfdCreate("9p-ledger", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	f := os.NewFile(uintptr(fd), "9p-ledger")
	err = f.Truncate(ledgerSize)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, ledgerSeals)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ledger: %w", err), f.Close())
	}
	return f, nil
}

// mapLedger maps f, which must not be able to shrink meanwhile.
func mapLedger(f *os.File) ([]byte, error) {
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&ledgerSeals != ledgerSeals {
		return nil, badLedger("seals %#x: %v", seals, err)
	}
	st, err := f.Stat()
	if err != nil || st.Size() != ledgerSize {
		return nil, badLedger("its size is wrong: %v", err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, ledgerSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping a ledger: %w", err)
	}
	return mem, nil
}

func unmapLedger(mem []byte) error { return unix.Munmap(mem) }

// dropLog gives back the memory of a log that is used no more.
func (l *ledger) dropLog(i uint32, length uint64) {
	const worth = 1 << 20
	if length >= worth {
		_ = unix.Madvise(l.log(i)[:length], unix.MADV_REMOVE) // saves memory only
	}
}

// useSocket prepares l for nc.
func (l *ledger) useSocket(nc *net.UnixConn) (err error) {
	s := &l.sock
	if s.raw, err = nc.SyscallConn(); err != nil {
		return fmt.Errorf("held connection: %w", err)
	}
	s.receive = func(fd uintptr) bool {
		s.result, s.errno = l.mmsg(unix.SYS_RECVMMSG, fd, s.at)
		return s.errno != syscall.EAGAIN
	}
	s.send = func(fd uintptr) bool {
		s.sendResult, s.sendErrno = l.mmsg(unix.SYS_SENDMMSG, fd, s.sendAt)
		return s.sendErrno != syscall.EAGAIN
	}
	return nil
}

// mmsg is the system call with one message; iov[i] is set.
func (l *ledger) mmsg(trap, fd uintptr, i uint32) (uintptr, syscall.Errno) {
	h := (*unix.Msghdr)(unsafe.Pointer(&l.mem[mmsghdrAt+int(i)*mmsghdrSize]))
	*h = unix.Msghdr{Iov: &l.sock.iov[i], Iovlen: 1}
	for {
		n, _, errno := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(h)), 1, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if errno != syscall.EINTR {
			return n, errno
		}
	}
}

// recv fills p, which lies in the ledger, and gives how many bytes there were.
func (l *ledger) recv(p []byte, in uint32) (int, error) {
	s := &l.sock
	s.at = 2 + in
	s.iov[s.at].Base = &p[0]
	s.iov[s.at].SetLen(len(p))
	if err := s.raw.Read(s.receive); err != nil {
		return 0, err
	}
	if s.errno != 0 {
		return 0, os.NewSyscallError("recvmmsg", s.errno)
	}
	n := int(l.inLen(in).Load())
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// transmit sends p, which lies in the ledger, or a part of it; wmu is held.
func (l *ledger) transmit(p []byte) (int, error) {
	s := &l.sock
	s.sendAt = l.current
	s.iov[s.sendAt].Base = &p[0]
	s.iov[s.sendAt].SetLen(len(p))
	if err := s.raw.Write(s.send); err != nil {
		return 0, err
	}
	if s.sendErrno != 0 {
		return 0, os.NewSyscallError("sendmmsg", s.sendErrno)
	}
	return int(l.msgLen(s.sendAt).Load()), nil
}
