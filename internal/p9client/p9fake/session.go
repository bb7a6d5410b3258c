package p9fake

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

type fid struct {
	path  string
	file  *os.File
	xattr []byte
	isX   bool
	names []os.DirEntry
}

type session struct {
	s     *Server
	conn  net.Conn
	msize uint32
	wmu   sync.Mutex
	wg    sync.WaitGroup
	mu    sync.Mutex
	fids  map[uint32]*fid
	live  map[uint16]*bool // requests being handled, by tag: true once flushed
}

// reader takes fields off a message; what is missing reads as zero.
type reader struct{ b []byte }

func (r *reader) take(n int) []byte {
	v := make([]byte, n)
	m := copy(v, r.b)
	r.b = r.b[m:]
	return v
}
func (r *reader) u16() uint16 { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }
func (r *reader) str() string { return string(r.take(int(r.u16()))) }

func p16(b []byte, v uint16) []byte { return binary.LittleEndian.AppendUint16(b, v) }
func p32(b []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(b, v) }
func p64(b []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(b, v) }
func pstr(b []byte, s string) []byte {
	return append(p16(b, uint16(len(s))), s...)
}

func (c *session) hookPath(body []byte) string {
	if len(body) < 4 {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.fids[binary.LittleEndian.Uint32(body)]; f != nil {
		return f.path
	}
	return ""
}

func (c *session) closeFids() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, f := range c.fids {
		f.close()
		delete(c.fids, n)
		c.s.Fids.Add(-1)
	}
}

func (f *fid) close() {
	if f.file != nil {
		_ = f.file.Close()
	}
}

func (c *session) get(n uint32) (*fid, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.fids[n]
	if f == nil {
		return nil, syscall.EBADF
	}
	return f, nil
}

func (c *session) put(n uint32, f *fid, replace bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.fids[n]
	if old != nil && !replace {
		return syscall.EBADF
	}
	if old == nil {
		c.s.Fids.Add(1)
	}
	c.fids[n] = f
	return nil
}

func (c *session) qid(b []byte, path string) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, err
	}
	return c.putQID(b, &st, path), nil
}

func (c *session) putQID(b []byte, st *unix.Stat_t, path string) []byte {
	var t byte
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		t = 0x80
	case unix.S_IFLNK:
		t = 0x02
	}
	ino := st.Ino
	if path == c.s.cfg.Dir && c.s.cfg.RootPath != 0 {
		ino = c.s.cfg.RootPath
	}
	return p64(p32(append(b, t), 1), ino)
}

func (c *session) handle(typ uint8, r *reader) ([]byte, error) {
	switch typ {
	case 100:
		c.closeFids()
		c.msize = min(r.u32(), c.s.cfg.MSize)
		return pstr(p32(nil, c.msize), "9P2000.L"), nil
	case 104:
		return c.attach(r)
	case 108:
		c.mu.Lock()
		defer c.mu.Unlock()
		if flushed := c.live[r.u16()]; flushed != nil {
			*flushed = true
		}
		return nil, nil
	case 110:
		return c.walk(r)
	case 30:
		return c.xattrwalk(r)
	case 120:
		c.mu.Lock()
		defer c.mu.Unlock()
		n := r.u32()
		f := c.fids[n]
		if f == nil {
			return nil, syscall.EBADF
		}
		f.close()
		delete(c.fids, n)
		c.s.Fids.Add(-1)
		return nil, nil
	}
	f, err := c.get(r.u32())
	if err != nil {
		return nil, err
	}
	return c.onFid(typ, f, r)
}

func (c *session) onFid(typ uint8, f *fid, r *reader) ([]byte, error) {
	switch typ {
	case 8:
		return p32(p64(p64(p64(p64(p64(p64(p32(p32(nil, 0x01021997), 4096), 1000), 10), 10), 100), 5), 7), 255), nil
	case 12:
		return c.open(f)
	case 22:
		target, err := os.Readlink(f.path)
		return pstr(nil, target), err
	case 24:
		return c.getattr(f)
	case 40:
		return c.readdir(f, r.u64(), r.u32())
	case 116:
		return c.read(f, r.u64(), r.u32())
	}
	return nil, syscall.EOPNOTSUPP
}

func (c *session) attach(r *reader) ([]byte, error) {
	c.s.Attaches.Add(1)
	if e := c.s.attach.Load(); e != 0 {
		return nil, syscall.Errno(e)
	}
	n := r.u32()
	if err := c.put(n, &fid{path: c.s.cfg.Dir}, false); err != nil {
		return nil, err
	}
	return c.qid(nil, c.s.cfg.Dir)
}

func (c *session) walk(r *reader) ([]byte, error) {
	from, to, n := r.u32(), r.u32(), r.u16()
	f, err := c.get(from)
	if err != nil {
		return nil, err
	}
	path := f.path
	var out []byte
	walked := uint16(0)
	for ; walked < n; walked++ {
		next := filepath.Join(path, r.str())
		q, err := c.qid(out, next)
		if err != nil {
			if walked == 0 {
				return nil, err
			}
			break
		}
		out, path = q, next
	}
	if walked == n {
		if err := c.put(to, &fid{path: path}, from == to); err != nil {
			return nil, err
		}
	}
	return append(p16(nil, walked), out...), nil
}

func (c *session) open(f *fid) ([]byte, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	f.file = file
	c.mu.Unlock()
	q, err := c.qid(nil, f.path)
	return p32(q, c.s.cfg.IOUnit), err
}

func (c *session) getattr(f *fid) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Lstat(f.path, &st); err != nil {
		return nil, err
	}
	b := c.putQID(p64(nil, 0x7ff), &st, f.path)
	b = p32(p32(p32(b, st.Mode), st.Uid), st.Gid)
	b = p64(p64(p64(b, st.Nlink), st.Rdev), uint64(st.Size))
	b = p64(p64(b, uint64(st.Blksize)), uint64(st.Blocks))
	for _, ts := range []unix.Timespec{st.Atim, st.Mtim, st.Ctim} {
		b = p64(p64(b, uint64(ts.Sec)), uint64(ts.Nsec))
	}
	return append(b, make([]byte, 32)...), nil
}

func (c *session) read(f *fid, off uint64, n uint32) ([]byte, error) {
	n = min(n, c.msize-24)
	if f.isX {
		off = min(off, uint64(len(f.xattr)))
		b := f.xattr[off:min(uint64(len(f.xattr)), off+uint64(n))]
		return append(p32(nil, uint32(len(b))), b...), nil
	}
	c.mu.Lock()
	file := f.file
	c.mu.Unlock()
	if file == nil {
		return nil, syscall.EINVAL
	}
	out := make([]byte, 4+n)
	m, _ := file.ReadAt(out[4:], int64(off)) // a short count says it all
	binary.LittleEndian.PutUint32(out, uint32(m))
	return out[:4+m], nil
}

func (c *session) readdir(f *fid, off uint64, n uint32) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.file == nil {
		return nil, syscall.EINVAL
	}
	if f.names == nil {
		ents, err := os.ReadDir(f.path)
		if err != nil {
			return nil, err
		}
		f.names = ents
	}
	out := make([]byte, 4)
	for i := int(off); i < len(f.names)+2; i++ {
		name := "."
		if i == 1 {
			name = ".."
		}
		path := f.path
		if i >= 2 {
			name = f.names[i-2].Name()
			path = filepath.Join(f.path, name)
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil, err
		}
		e := c.putQID(nil, &st, path)
		e = append(p64(e, uint64(i+1)), byte(st.Mode>>12))
		e = pstr(e, name)
		if len(out)+len(e) > int(n)+4 {
			break
		}
		out = append(out, e...)
	}
	binary.LittleEndian.PutUint32(out, uint32(len(out)-4))
	return out, nil
}

func (c *session) xattrwalk(r *reader) ([]byte, error) {
	from, to, name := r.u32(), r.u32(), r.str()
	f, err := c.get(from)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	var n int
	if name == "" {
		n, err = unix.Llistxattr(f.path, buf)
	} else {
		n, err = unix.Lgetxattr(f.path, name, buf)
	}
	if err != nil {
		return nil, err
	}
	val := slices.Clone(buf[:n])
	if name == "" && strings.Trim(string(val), "\x00") == "" {
		val = nil
	}
	if err := c.put(to, &fid{path: f.path, isX: true, xattr: val}, false); err != nil {
		return nil, err
	}
	return p64(nil, uint64(len(val))), nil
}
