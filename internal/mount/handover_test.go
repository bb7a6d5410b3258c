package mount_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/mount"
)

func dupFile(t testing.TB, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	must(t, unix.SetNonblock(fd, false))
	return os.NewFile(uintptr(fd), f.Name())
}

// handOver replaces the mount by one that took it over.
func handOver(t testing.TB, f *hostFixture, m *mount.Mount) *mount.Mount {
	t.Helper()
	frozen, err := mount.Freeze([]*mount.Mount{m})
	must(t, err)
	if len(frozen) != 1 {
		t.Fatalf("%d mounts are frozen", len(frozen))
	}
	fr := frozen[0]
	opts := hostOptions(f.hostDaemon, mount.Options{})
	next, err := mount.Adopt(testCtx(t), &fr.Handover, dupFile(t, fr.Device), dupFile(t, fr.Index), opts)
	must(t, err)
	fr.Leave()
	<-m.Done()
	return next.Serve()
}

// A mount is taken over again and again under readers and walkers, with the daemon
// replaced in between; a file that was open goes on.
func TestHandoverUnderReaders(t *testing.T) {
	f := mountHost(t, "", mount.Options{})
	want, err := readDirect(filepath.Join(f.src, "big"))
	must(t, err)
	open, err := os.Open(filepath.Join(f.dir, "usr/small"))
	must(t, err)
	defer func() { must(t, open.Close()) }()
	endReaders := workers(t, 2, func() error {
		got, err := readDirect(filepath.Join(f.dir, "big"))
		if err == nil && got != want {
			err = errors.New("wrong bytes")
		}
		return err
	})
	endWalk := workers(t, 1, func() error {
		evict(t, f.dir)
		return readEverything(f.dir)
	})
	m := f.Mount
	for i := range 20 {
		before := f.reads.Load()
		waitFor(t, func() bool { return f.reads.Load() > before+3 })
		m = handOver(t, f, m)
		if i%4 == 3 {
			f.stop()
			f.start()
		}
	}
	endReaders()
	endWalk()
	evict(t, f.dir)
	var buf [64]byte
	n, err := open.ReadAt(buf[:], 0)
	if string(buf[:n]) != "a small file\n" {
		t.Errorf("the open file reads %q, %v", buf[:n], err)
	}
	must(t, m.Unmount(testCtx(t), true))
}

// What was asked for and not answered is asked for by the successor, even if the
// daemon is away during the handover.
func TestHandoverPending(t *testing.T) {
	f := mountHost(t, "", mount.Options{})
	f.stop()
	read := make(chan error, 1)
	go func() {
		b, err := os.ReadFile(filepath.Join(f.dir, "usr/small"))
		if err == nil && string(b) != "a small file\n" {
			err = errors.New("wrong bytes")
		}
		read <- err
	}()
	waitFor(t, func() bool { return f.Status().Kernel["read"] > 0 })
	m := handOver(t, f, f.Mount)
	if st := m.Status(); st.State != mount.Waiting {
		t.Errorf("state %s", st.State)
	}
	f.start()
	must(t, <-read)
	must(t, m.Unmount(testCtx(t), false))
}

// A handover that comes to nothing leaves the mount as it was.
func TestHandoverFails(t *testing.T) {
	f := mountHost(t, "", mount.Options{})
	for range 10 {
		frozen, err := mount.Freeze([]*mount.Mount{f.Mount})
		must(t, err)
		read := make(chan error, 1)
		go func() {
			_, err := os.ReadDir(f.dir)
			read <- err
		}()
		fr := frozen[0]
		fr.Pending = make([]mount.PendingRead, mount.MaxPending+1)
		_, err = mount.Adopt(testCtx(t), &fr.Handover, dupFile(t, fr.Device), dupFile(t, fr.Index), hostOptions(f.hostDaemon, mount.Options{}))
		if !fserr.Is(err, fserr.TooLarge) {
			t.Errorf("too many reads: %v", err)
		}
		fr.Pending = nil
		_, err = mount.Adopt(testCtx(t), &fr.Handover, dupFile(t, fr.Device), dupFile(t, fr.Device), hostOptions(f.hostDaemon, mount.Options{}))
		if err == nil {
			t.Error("a device was taken for an index")
		}
		must(t, fr.Thaw())
		must(t, <-read)
	}
	must(t, readEverything(f.dir))
}
