package main

import "encoding/binary"

// Message numbers of 9P2000.L that are used here.
const (
	rlerror  = 7
	tlopen   = 12
	tgetattr = 24
	treaddir = 40
	tversion = 100
	tattach  = 104
	twalk    = 110
	tread    = 116
	tclunk   = 120

	headerSize = 7
	readHeader = headerSize + 4
	noFID      = 0xffffffff
)

// step makes the next request of a lane, behind its header. turn counts the
// operations of the lane.
type step func(b []byte, l *lane, turn int) []byte

// operation is what is measured: begin once for each lane, then the steps in
// turn, which are one operation together. Treaddir is repeated until its reply is
// empty, Tread until all bytes have come.
type operation struct {
	name  string
	begin []step
	steps []step
	small bool // few bytes in each message
	large bool
	bytes int
}

var operations = []operation{
	{name: "meta", steps: []step{walkFile, getattr, clunk}, small: true},
	{name: "small", steps: []step{walkFile, open, readAt(fileBytes, fileBytes), clunk}, small: true, bytes: fileBytes},
	{name: "read4k", begin: []step{walkFile, open}, steps: []step{readAt(fileBytes, fileBytes)}, bytes: fileBytes},
	{name: "scatter4k", begin: []step{walkTo("large"), open}, steps: []step{readScattered}, bytes: fileBytes},
	{name: "seq512k", begin: []step{walkTo("large"), open}, steps: []step{readAt(512<<10, largeBytes)}, bytes: 512 << 10},
	{name: "seq1m", begin: []step{walkTo("large"), open}, steps: []step{readAt(1<<20, largeBytes)}, large: true, bytes: 1 << 20},
	{name: "readdir10k", steps: []step{walkTo("dir"), open, readdir, clunk}},
}

func header(b []byte, typ uint8, l *lane) []byte {
	return append(b, 0, 0, 0, 0, typ, byte(l.tag), byte(l.tag>>8))
}

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(s))), s...)
}

// walkFile walks to a file of the directory, another each turn.
func walkFile(b []byte, l *lane, turn int) []byte {
	b = walk(b, l, 2)
	b = appendString(b, "dir")
	b = binary.LittleEndian.AppendUint16(b, uint16(len(fileName(0))))
	return appendFileName(b, (turn*17+int(l.tag)*613)%fileCount)
}

func walkTo(name string) step {
	return func(b []byte, l *lane, _ int) []byte { return appendString(walk(b, l, 1), name) }
}

func walk(b []byte, l *lane, names int) []byte {
	b = header(b, twalk, l)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, l.fid)
	return binary.LittleEndian.AppendUint16(b, uint16(names))
}

func getattr(b []byte, l *lane, _ int) []byte {
	b = binary.LittleEndian.AppendUint32(header(b, tgetattr, l), l.fid)
	return binary.LittleEndian.AppendUint64(b, 0x7ff)
}

func open(b []byte, l *lane, _ int) []byte {
	b = binary.LittleEndian.AppendUint32(header(b, tlopen, l), l.fid)
	return binary.LittleEndian.AppendUint32(b, 0)
}

func clunk(b []byte, l *lane, _ int) []byte {
	return binary.LittleEndian.AppendUint32(header(b, tclunk, l), l.fid)
}

// readAt reads the next n bytes of a file of size bytes, from the start again
// after its end; each lane begins elsewhere. A server with a small msize is asked
// for them in parts.
func readAt(n, size int) step {
	return func(b []byte, l *lane, turn int) []byte {
		off := (turn+int(l.tag)*5)*n%size + l.done
		b = binary.LittleEndian.AppendUint32(header(b, tread, l), l.fid)
		b = binary.LittleEndian.AppendUint64(b, uint64(off))
		return binary.LittleEndian.AppendUint32(b, uint32(min(n-l.done, l.payload)))
	}
}

// readScattered reads blocks all over the large file, each as rarely as the others:
// none of them is in any memory closer than the kernel's.
func readScattered(b []byte, l *lane, turn int) []byte {
	return readAt(fileBytes, largeBytes)(b, l, (turn*4099+int(l.tag)*1021)%(largeBytes/fileBytes))
}

// listingCount is what a Linux client asks for with msize 256 KiB + 24.
const listingCount = 256 << 10

func readdir(b []byte, l *lane, _ int) []byte {
	b = binary.LittleEndian.AppendUint32(header(b, treaddir, l), l.fid)
	b = binary.LittleEndian.AppendUint64(b, l.cookie)
	return binary.LittleEndian.AppendUint32(b, uint32(min(listingCount, l.payload)))
}

// lastCookie finds where the listing goes on behind data.
func lastCookie(data []byte) (cookie uint64) {
	for len(data) >= 24 {
		cookie = binary.LittleEndian.Uint64(data[13:])
		data = data[min(len(data), 24+int(binary.LittleEndian.Uint16(data[22:]))):]
	}
	return cookie
}
