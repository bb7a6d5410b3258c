package hostlink

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	version = 1
	// network is that of the sockets: packets, in order, with an end.
	network = "unixpacket"
	// suffix is behind the path of a 9P socket in that of its host link.
	suffix = ".host"

	// maxPacket bounds a message, bytes.
	maxPacket = 16 << 10
	// MaxBatch is how many reads one message may hold.
	MaxBatch = 64
	// MaxRead is the longest read, bytes.
	MaxRead = 1 << 20

	readSize = 32
	ackSize  = 8
)

// SocketFor gives the path of the host link that belongs to the 9P socket at a
// path.
func SocketFor(path string) string { return path + suffix }

// hello is the keeper's first message.
type hello struct {
	Version int    `json:"version"`
	Aname   string `json:"aname"`
	// Session: the packet brings the server's end of a 9P connection, and Ledger that
	// the next one brings a ledger.
	Session bool `json:"session,omitempty"`
	Ledger  bool `json:"ledger,omitempty"`
}

// Welcome says what was attached.
type Welcome struct {
	// Tree names the tree. Another one has another name.
	Tree string `json:"tree,omitempty"`
	// Statfs of the tree.
	BlockSize uint32 `json:"block_size,omitempty"`
	Blocks    uint64 `json:"blocks,omitempty"`
	Files     uint64 `json:"files,omitempty"`

	// Errno and Error say why nothing was.
	Errno syscall.Errno `json:"errno,omitempty"`
	Error string        `json:"error,omitempty"`
}

// Read asks for bytes of a file. Its end is not behind that of the file.
type Read struct {
	Unique uint64 // the kernel's number of the request
	Node   uint64
	Off    int64
	Size   uint32 // 1 to MaxRead
}

// AppendRead appends r as it is sent.
func AppendRead(b []byte, r Read) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, r.Unique)
	b = le.AppendUint64(b, r.Node)
	b = le.AppendUint64(b, uint64(r.Off))
	return le.AppendUint64(b, uint64(r.Size))
}

var errPacket = errors.New("a message that cannot be")

// parseReads takes a message apart.
func parseReads(b []byte, reads []Read) ([]Read, error) {
	if len(b) == 0 || len(b)%readSize != 0 {
		return nil, errPacket
	}
	le := binary.LittleEndian
	for ; len(b) > 0; b = b[readSize:] {
		size := le.Uint64(b[24:])
		r := Read{Unique: le.Uint64(b), Node: le.Uint64(b[8:]), Off: int64(le.Uint64(b[16:])), Size: uint32(size)}
		if size == 0 || size > MaxRead || r.Off < 0 {
			return nil, errPacket
		}
		reads = append(reads, r)
	}
	return reads, nil
}

// sendJSON sends v, and a descriptor with it unless file is nil.
func sendJSON(c *net.UnixConn, v any, file *os.File) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) > maxPacket {
		return errPacket
	}
	return send(c, text, file)
}

func send(c *net.UnixConn, b []byte, file *os.File) error {
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	n, _, err := c.WriteMsgUnix(b, rights, nil)
	if err == nil && n != len(b) {
		err = errPacket
	}
	return err
}

// receive reads a message of at most maxPacket bytes, and the descriptor that
// came with it, nil if none did.
func receive(c *net.UnixConn, b []byte, name string) (n int, file *os.File, err error) {
	// Room for more descriptors than one, so that none is there unseen.
	rights := make([]byte, unix.CmsgSpace(4*4))
	n, rn, flags, _, err := c.ReadMsgUnix(b, rights)
	if err != nil {
		return 0, nil, err
	}
	files, err := descriptors(rights[:rn], name)
	if err == nil && (n == 0 || len(files) > 1 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0) {
		err = errPacket
	}
	if err != nil {
		for _, f := range files {
			_ = f.Close() // it was not asked for
		}
		return 0, nil, err
	}
	if len(files) == 1 {
		file = files[0]
	}
	return n, file, nil
}

func descriptors(rights []byte, name string) (files []*os.File, err error) {
	if len(rights) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("descriptors: %w", err)
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // credentials, or another thing nobody asked for
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), name))
		}
	}
	return files, nil
}

func appendAck(b []byte, unique uint64) []byte { return binary.LittleEndian.AppendUint64(b, unique) }

// putOutHeader writes what FUSE has in front of an answer.
func putOutHeader(b []byte, size int, errno unix.Errno, unique uint64) {
	ne := binary.NativeEndian
	ne.PutUint32(b, uint32(size))
	ne.PutUint32(b[4:], uint32(-int32(errno)))
	ne.PutUint64(b[8:], unique)
}
