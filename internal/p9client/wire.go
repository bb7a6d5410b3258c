package p9client

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Message types of 9P2000.L that a reader of immutable trees needs. The reply
// to a request is the request's number plus one.
const (
	rlerror    = 7
	tstatfs    = 8
	tlopen     = 12
	treadlink  = 22
	tgetattr   = 24
	txattrwalk = 30
	treaddir   = 40
	tversion   = 100
	tattach    = 104
	tflush     = 108
	twalk      = 110
	tread      = 116
	tclunk     = 120
)

const (
	headerSize = 7
	// ioHeader is what 9P reserves of the message size around a payload.
	ioHeader = 24
	qidSize  = 13
	// maxWalk is how many names one Twalk may carry.
	maxWalk = 16
	// maxErrno is the largest errno Linux knows how to report.
	maxErrno = 4095

	noTag = 0xFFFF
	noFid = 0xFFFFFFFF

	version = "9P2000.L"
)

// Bits of [QID.Type].
const (
	QTDir     = 0x80
	QTSymlink = 0x02
	QTFile    = 0x00
)

// QID is the server's identity of a node: Path is unique within an attach.
type QID struct {
	Type    uint8
	Version uint32
	Path    uint64
}

// Time is a moment in seconds and nanoseconds since the Unix epoch.
type Time struct {
	Sec  uint64
	Nsec uint64
}

// Attr is what Rgetattr carries. Mode includes the S_IFMT bits; Rdev is in
// Linux's encoding; Blocks counts 512 byte units.
type Attr struct {
	Valid               uint64
	QID                 QID
	Mode, UID, GID      uint32
	NLink, Rdev         uint64
	Size                uint64
	BlockSize, Blocks   uint64
	Atime, Mtime, Ctime Time
}

// Dirent is one directory entry. Offset is the cookie to continue after it;
// Type is a DT_* value.
type Dirent struct {
	QID    QID
	Offset uint64
	Type   uint8
	Name   string
}

// Statfs is what Rstatfs carries.
type Statfs struct {
	Type, BlockSize             uint32
	Blocks, BlocksFree, BlocksA uint64
	Files, FilesFree            uint64
	FSID                        uint64
	NameLen                     uint32
}

// attrMask asks Tgetattr for the "basic" set: everything stat(2) reports.
const attrMask = 0x000007ff

// errShort says a message ended before its fields did.
var errShort = errors.New("message too short")

// frame building: begin leaves room for the header, which seal fills.

func begin(b []byte) []byte { return append(b[:0], 0, 0, 0, 0, 0, 0, 0) }

func seal(b []byte, typ uint8, tag uint16) {
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	b[4] = typ
	binary.LittleEndian.PutUint16(b[5:], tag)
}

func put32(b []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(b, v) }
func put64(b []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(b, v) }
func put16(b []byte, v uint16) []byte { return binary.LittleEndian.AppendUint16(b, v) }

func putString(b []byte, s string) []byte { return append(put16(b, uint16(len(s))), s...) }

// cursor reads fields off a message body. The first field that does not fit
// sets short; fields read after that are zero.
type cursor struct {
	b     []byte
	short bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.short, c.b = true, nil
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) u8() uint8 {
	if v := c.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if v := c.take(2); v != nil {
		return binary.LittleEndian.Uint16(v)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if v := c.take(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if v := c.take(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

func (c *cursor) str() []byte { return c.take(int(c.u16())) }

func (c *cursor) qid() QID {
	return QID{Type: c.u8(), Version: c.u32(), Path: c.u64()}
}

func (c *cursor) time() Time { return Time{Sec: c.u64(), Nsec: c.u64()} }

// end reports errShort when a field was missing and an error when bytes are
// left over.
func (c *cursor) end() error {
	if c.short {
		return errShort
	}
	if len(c.b) != 0 {
		return fmt.Errorf("%d bytes after the message", len(c.b))
	}
	return nil
}

func parseVersion(b []byte) (msize uint32, ver string, err error) {
	c := cursor{b: b}
	msize = c.u32()
	ver = string(c.str())
	return msize, ver, c.end()
}

func parseQID(b []byte) (QID, error) {
	c := cursor{b: b}
	q := c.qid()
	return q, c.end()
}

// parseWalk gives the number of names walked and the last one's qid.
func parseWalk(b []byte, want int) (n int, last QID, err error) {
	c := cursor{b: b}
	n = int(c.u16())
	if n > want {
		return 0, QID{}, fmt.Errorf("walked %d names of %d", n, want)
	}
	for range n {
		last = c.qid()
	}
	return n, last, c.end()
}

func parseOpen(b []byte) (q QID, iounit uint32, err error) {
	c := cursor{b: b}
	q, iounit = c.qid(), c.u32()
	return q, iounit, c.end()
}

func parseAttr(b []byte, a *Attr) error {
	c := cursor{b: b}
	a.Valid, a.QID = c.u64(), c.qid()
	a.Mode, a.UID, a.GID = c.u32(), c.u32(), c.u32()
	a.NLink, a.Rdev, a.Size = c.u64(), c.u64(), c.u64()
	a.BlockSize, a.Blocks = c.u64(), c.u64()
	a.Atime, a.Mtime, a.Ctime = c.time(), c.time(), c.time()
	c.take(32) // birth time, generation, data version
	return c.end()
}

func parseString(b []byte) (string, error) {
	c := cursor{b: b}
	s := string(c.str())
	return s, c.end()
}

func parseSize(b []byte) (uint64, error) {
	c := cursor{b: b}
	n := c.u64()
	return n, c.end()
}

func parseStatfs(b []byte) (Statfs, error) {
	c := cursor{b: b}
	s := Statfs{
		Type: c.u32(), BlockSize: c.u32(),
		Blocks: c.u64(), BlocksFree: c.u64(), BlocksA: c.u64(),
		Files: c.u64(), FilesFree: c.u64(), FSID: c.u64(), NameLen: c.u32(),
	}
	return s, c.end()
}

// parseDirents decodes the payload of one Rreaddir. Names no directory entry
// can have (empty, or with a slash or NUL) are an error.
func parseDirents(b []byte, out []Dirent) ([]Dirent, error) {
	c := cursor{b: b}
	for len(c.b) > 0 {
		d := Dirent{QID: c.qid(), Offset: c.u64(), Type: c.u8()}
		name := c.str()
		if c.short {
			return out, errShort
		}
		if !validName(name) {
			return out, fmt.Errorf("entry named %q", name)
		}
		d.Name = string(name)
		out = append(out, d)
	}
	return out, nil
}

func validName(name []byte) bool {
	if len(name) == 0 || len(name) > 255 {
		return false
	}
	for _, ch := range name {
		if ch == '/' || ch == 0 {
			return false
		}
	}
	return true
}
