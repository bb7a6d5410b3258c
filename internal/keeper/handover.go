package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/mount"
)

// A keeper hands everything over to its successor through a Unix socket of
// packets, next to the control socket:
//
//	successor                    keeper
//	{"version":1}             →
//	                          ←  {"version":1,"mounts":N} with the control socket and its lock
//	                          ←  a mount, with its device and its index (N times,
//	                          ←   each followed by the rest of its pending reads)
//	{"taken":true}            →
//
// From before the first mount is sent until the last packet has come, nobody
// answers the kernel, whose requests wait. Without that packet the keeper goes on
// as if nothing had been.
const (
	handoverVersion = 1
	handoverSuffix  = ".handover"
	handoverNetwork = "unixpacket"
	// maxHandoverPacket bounds a packet, bytes; pendingPerPacket the reads in it.
	maxHandoverPacket = 64 << 10
	pendingPerPacket  = 256
	maxHandoverMounts = 1 << 16
	// handoverWait is how long a successor may take for everything.
	handoverWait = time.Minute
)

// handoverHello is the successor's first and last word.
type handoverHello struct {
	Version int  `json:"version,omitempty"`
	Taken   bool `json:"taken,omitempty"`
	Upgrade bool `json:"upgrade,omitempty"` // start a successor and tell what came of it
}

// handoverHead says what comes.
type handoverHead struct {
	Version int    `json:"version"`
	Mounts  int    `json:"mounts"`
	PID     int    `json:"pid,omitempty"`  // of the successor, to who asked for one
	Kind    string `json:"kind,omitempty"` // of Error
	Error   string `json:"error,omitempty"`
}

// handoverMount is a mount, or more pending reads of the one before.
type handoverMount struct {
	Request MountRequest   `json:"request"`
	Mount   mount.Handover `json:"mount"`
	More    bool           `json:"more,omitempty"`
}

// parsePacket reads a packet that came from another process.
func parsePacket(b []byte, v any) error {
	if len(b) == 0 || len(b) > maxHandoverPacket {
		return fserr.Newf(fserr.Corrupt, "handover", "", "a packet has %d bytes", len(b))
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fserr.New(fserr.Corrupt, "handover", "", err)
	}
	return nil
}

func (h *handoverHead) check() error {
	if h.Error != "" {
		kind, ok := fserr.ParseKind(h.Kind)
		if !ok {
			kind = fserr.Internal
		}
		return fserr.New(kind, "", "", errors.New(h.Error))
	}
	if h.Version != handoverVersion || h.Mounts < 0 || h.Mounts > maxHandoverMounts {
		return fserr.Newf(fserr.Unsupported, "handover", "", "version %d with %d mounts", h.Version, h.Mounts)
	}
	return nil
}

func (m *handoverMount) check() error {
	if err := m.Request.check(); err != nil {
		return err
	}
	if m.Mount.Target != m.Request.Target || len(m.Mount.Pending) > pendingPerPacket {
		return fserr.Newf(fserr.Corrupt, "handover", m.Request.Target, "mounted on %q, %d reads", m.Mount.Target, len(m.Mount.Pending))
	}
	for _, p := range m.Mount.Pending {
		if err := p.Check(); err != nil {
			return fserr.New(fserr.Corrupt, "handover", m.Request.Target, err)
		}
	}
	return nil
}

// packets sends and receives packets with descriptors.
type packets struct{ c *net.UnixConn }

func (p packets) send(v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("handover: %w", err)
	}
	if len(b) > maxHandoverPacket {
		return fserr.Newf(fserr.TooLarge, "handover", "", "a packet has %d bytes", len(b))
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := p.c.WriteMsgUnix(b, rights, nil); err != nil {
		return fserr.New(fserr.Unavailable, "handover", "", err)
	}
	return nil
}

// receive reads a packet into v; want descriptors have to come with it.
func (p packets) receive(v any, want int) ([]*os.File, error) {
	b, rights := make([]byte, maxHandoverPacket), make([]byte, unix.CmsgSpace(4*8))
	n, rn, flags, _, err := p.c.ReadMsgUnix(b, rights)
	if err != nil {
		return nil, fserr.New(fserr.Unavailable, "handover", "", err)
	}
	files, err := descriptors(rights[:rn])
	if err == nil && (flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || len(files) != want && len(files) != 0) {
		err = fserr.Newf(fserr.Corrupt, "handover", "", "%d descriptors came, want %d", len(files), want)
	}
	if err == nil {
		err = parsePacket(b[:n], v)
	}
	if err != nil {
		return nil, errors.Join(err, closeAll(files))
	}
	return files, nil
}

func descriptors(rights []byte) (files []*os.File, err error) {
	if len(rights) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fserr.New(fserr.Corrupt, "handover", "", err)
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // not descriptors
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			// Frozen devices do not wait; as files they have to.
			if serr := unix.SetNonblock(fd, false); serr != nil {
				err = serr
			}
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
		if err != nil {
			return files, fserr.New(fserr.Internal, "handover", "", err)
		}
	}
	return files, nil
}

func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// sendMount sends a mount, with as many packets as its pending reads need.
func (p packets) sendMount(req MountRequest, f *mount.Frozen) error {
	m := handoverMount{Request: req, Mount: f.Handover}
	rest := f.Pending
	for first := true; ; first = false {
		n := min(len(rest), pendingPerPacket)
		m.Mount.Pending, rest = rest[:n], rest[n:]
		m.More = len(rest) > 0
		var files []*os.File
		if first {
			files = []*os.File{f.Device, f.Index}
		}
		if err := p.send(m, files...); err != nil {
			return err
		}
		if !m.More {
			return nil
		}
	}
}

// receiveMount is the other side of sendMount.
func (p packets) receiveMount() (m handoverMount, files []*os.File, err error) {
	files, err = p.receive(&m, 2)
	if err != nil {
		return m, nil, err
	}
	err = m.check()
	if err == nil && len(files) != 2 {
		err = fserr.Newf(fserr.Corrupt, "handover", m.Request.Target, "it came without its descriptors")
	}
	for more := m.More; more && err == nil; {
		var next handoverMount
		if _, err = p.receive(&next, 0); err == nil {
			err = next.check()
		}
		m.Mount.Pending = append(m.Mount.Pending, next.Mount.Pending...)
		if more = next.More; len(m.Mount.Pending) > mount.MaxPending {
			err = fserr.Newf(fserr.TooLarge, "handover", m.Request.Target, "too many reads are pending")
		}
	}
	if err != nil {
		return m, nil, errors.Join(err, closeAll(files))
	}
	return m, files, nil
}

// dialPredecessor connects to the keeper whose control socket is at path.
func dialPredecessor(ctx context.Context, path string) (packets, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, handoverNetwork, path+handoverSuffix)
	if err != nil {
		return packets{}, fserr.New(fserr.Unavailable, "take over", path, err)
	}
	c, ok := nc.(*net.UnixConn)
	if !ok {
		return packets{}, errors.Join(fmt.Errorf("connection of type %T", nc), nc.Close())
	}
	return packets{c}, c.SetDeadline(time.Now().Add(handoverWait))
}
