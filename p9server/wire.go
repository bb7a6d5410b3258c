package p9server

import (
	"bytes"
	"encoding/binary"

	"github.com/nineply/nineply/layerindex"
)

// Message numbers of 9P2000.L. A reply is its request plus one.
const (
	rlerror      = 7
	tstatfs      = 8
	tlopen       = 12
	tlcreate     = 14
	tsymlink     = 16
	tmknod       = 18
	trename      = 20
	treadlink    = 22
	tgetattr     = 24
	tsetattr     = 26
	txattrwalk   = 30
	txattrcreate = 32
	treaddir     = 40
	tfsync       = 50
	tlock        = 52
	tgetlock     = 54
	tlink        = 70
	tmkdir       = 72
	trenameat    = 74
	tunlinkat    = 76
	tversion     = 100
	tauth        = 102
	tattach      = 104
	tflush       = 108
	twalk        = 110
	tread        = 116
	twrite       = 118
	tclunk       = 120
	tremove      = 122
)

// Fixed quantities of the protocol and of this server.
const (
	version9P = "9P2000.L"
	// noFID stands for "no fid" in Tattach's afid.
	noFID = 0xffffffff

	// headerSize is size[4] type[1] tag[2].
	headerSize = 7
	// readHeader is what an Rread or Rreaddir holds before its payload.
	readHeader = headerSize + 4
	// ioHeader is the room that Linux keeps free of payload in a message of
	// msize bytes; a round payload plus ioHeader is a good msize.
	ioHeader = 24
	// minMsize is the least message size a session works with: Linux refuses
	// to mount with less.
	minMsize = 4096
	// initialMsize bounds messages before a version is agreed.
	initialMsize = 8192
	// maxWalk is the most names one Twalk may carry.
	maxWalk = 16
	// nameMax is the longest name of a directory entry (NAME_MAX).
	nameMax = 255
	// direntFixed is what a directory entry takes on the wire besides its
	// name: qid[13] offset[8] type[1] namelen[2].
	direntFixed = 24
)

// Qid type bits.
const (
	qtDir     = 0x80
	qtSymlink = 0x02
)

// Bits of Tgetattr's request mask and Rgetattr's valid mask that are served.
const attrBasic = 0x7ff

// Open flags of 9P2000.L (the values of Linux on x86, whatever the host is).
const (
	openAccess    = 0o3
	openCreate    = 0o100
	openExcl      = 0o200
	openTruncate  = 0o1000
	openDirectory = 0o200000
)

// Lock types and status of Tlock and Tgetlock.
const (
	lockRead    = 0
	lockWrite   = 1
	lockUnlock  = 2
	lockSuccess = 0
)

// decoder takes the fields of one request body in order. After a field that
// does not fit, bad is set and every further field is zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) u8() uint8 {
	if len(d.b) < 1 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) u16() uint16 {
	if len(d.b) < 2 {
		d.fail()
		return 0
	}
	v := binary.LittleEndian.Uint16(d.b)
	d.b = d.b[2:]
	return v
}

func (d *decoder) u32() uint32 {
	if len(d.b) < 4 {
		d.fail()
		return 0
	}
	v := binary.LittleEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

func (d *decoder) u64() uint64 {
	if len(d.b) < 8 {
		d.fail()
		return 0
	}
	v := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

// str gives a view into the request: valid until the next one is read.
func (d *decoder) str() []byte {
	n := int(d.u16())
	if len(d.b) < n {
		d.fail()
		return nil
	}
	s := d.b[:n]
	d.b = d.b[n:]
	return s
}

func (d *decoder) fail() { d.b, d.bad = nil, true }

// appendQid appends qid[13].
func appendQid(b []byte, version uint32, typ uint8, path uint64) []byte {
	b = append(b, typ)
	b = binary.LittleEndian.AppendUint32(b, version)
	return binary.LittleEndian.AppendUint64(b, path)
}

// appendString appends len[2] and s, which must be shorter than 64 KiB.
func appendString[T string | []byte](b []byte, s T) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// appendError appends a whole Rlerror.
func appendError(b []byte, tag uint16, errno uint32) []byte {
	b = append(b, headerSize+4, 0, 0, 0, rlerror, byte(tag), byte(tag>>8))
	return binary.LittleEndian.AppendUint32(b, errno)
}

// qidTypeOf gives the qid type of a file type (the S_IFMT bits of a mode).
func qidTypeOf(mode uint32) uint8 {
	switch mode & layerindex.ModeTypeMask {
	case layerindex.ModeDir:
		return qtDir
	case layerindex.ModeSymlink:
		return qtSymlink
	}
	return 0
}

// validVersion tells whether v is 9P2000.L, or an extension of it, which is
// answered with the plain version as version(9P) wants.
func validVersion(v []byte) bool {
	rest, ok := bytes.CutPrefix(v, []byte(version9P))
	return ok && (len(rest) == 0 || rest[0] == '.')
}
