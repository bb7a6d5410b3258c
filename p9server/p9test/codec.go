package p9test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// field is one field of a message: its name and how it lies on the wire.
type field struct {
	name string
	kind string
}

// message is one row of the protocol's table.
type message struct {
	typ    uint8
	name   string
	fields []field
}

// protocol lists the messages as "name:kind" fields. Kinds are 1, 2, 4, 8
// (bytes of an integer), s (string), q (qid), S (list of strings), Q (list of
// qids), d (counted bytes), e (directory entries).
var protocol = map[uint8]string{
	7:   "Rlerror ecode:4",
	8:   "Tstatfs fid:4",
	9:   "Rstatfs type:4 bsize:4 blocks:8 bfree:8 bavail:8 files:8 ffree:8 fsid:8 namelen:4",
	12:  "Tlopen fid:4 flags:4",
	13:  "Rlopen qid:q iounit:4",
	14:  "Tlcreate fid:4 name:s flags:4 mode:4 gid:4",
	16:  "Tsymlink fid:4 name:s symtgt:s gid:4",
	18:  "Tmknod dfid:4 name:s mode:4 major:4 minor:4 gid:4",
	20:  "Trename fid:4 dfid:4 name:s",
	22:  "Treadlink fid:4",
	23:  "Rreadlink target:s",
	24:  "Tgetattr fid:4 mask:8",
	25:  "Rgetattr valid:8 qid:q mode:4 uid:4 gid:4 nlink:8 rdev:8 size:8 blksize:8 blocks:8 atime:8 atimens:8 mtime:8 mtimens:8 ctime:8 ctimens:8 btime:8 btimens:8 gen:8 dataversion:8",
	26:  "Tsetattr fid:4 valid:4 mode:4 uid:4 gid:4 size:8 atime:8 atimens:8 mtime:8 mtimens:8",
	30:  "Txattrwalk fid:4 newfid:4 name:s",
	31:  "Rxattrwalk size:8",
	32:  "Txattrcreate fid:4 name:s size:8 flags:4",
	40:  "Treaddir fid:4 offset:8 count:4",
	41:  "Rreaddir data:e",
	50:  "Tfsync fid:4 datasync:4",
	51:  "Rfsync",
	52:  "Tlock fid:4 type:1 flags:4 start:8 length:8 proc:4 client:s",
	53:  "Rlock status:1",
	54:  "Tgetlock fid:4 type:1 start:8 length:8 proc:4 client:s",
	55:  "Rgetlock type:1 start:8 length:8 proc:4 client:s",
	70:  "Tlink dfid:4 fid:4 name:s",
	72:  "Tmkdir dfid:4 name:s mode:4 gid:4",
	74:  "Trenameat olddirfid:4 oldname:s newdirfid:4 newname:s",
	76:  "Tunlinkat dirfd:4 name:s flags:4",
	100: "Tversion msize:4 version:s",
	101: "Rversion msize:4 version:s",
	102: "Tauth afid:4 uname:s aname:s uid:4",
	104: "Tattach fid:4 afid:4 uname:s aname:s uid:4",
	105: "Rattach qid:q",
	108: "Tflush oldtag:2",
	109: "Rflush",
	110: "Twalk fid:4 newfid:4 wname:S",
	111: "Rwalk wqid:Q",
	116: "Tread fid:4 offset:8 count:4",
	117: "Rread data:d",
	118: "Twrite fid:4 offset:8 data:d",
	120: "Tclunk fid:4",
	121: "Rclunk",
	122: "Tremove fid:4",
	130: "Tunknown",
}

// lookupMessage finds a row by number, or by name where name is not empty.
func lookupMessage(typ uint8, name string) (message, bool) {
	row, ok := protocol[typ]
	if name != "" {
		for typ, row = range protocol {
			if ok = strings.Fields(row)[0] == name; ok {
				break
			}
		}
	}
	if !ok {
		return message{}, false
	}
	words := strings.Fields(row)
	m := message{typ: typ, name: words[0]}
	for _, w := range words[1:] {
		fieldName, kind, _ := strings.Cut(w, ":")
		m.fields = append(m.fields, field{fieldName, kind})
	}
	return m, true
}

// Encode turns a line of text into a message. Integers may be written as Go
// does; fields left out are zero, and "afid" and the tag of a Tversion have
// their customary all-ones values.
func Encode(line string) ([]byte, error) {
	name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	m, ok := lookupMessage(0, name)
	if !ok {
		return nil, fmt.Errorf("encoding %q: no such message", line)
	}
	values := map[string]string{"tag": "0", "afid": "0xffffffff"}
	if name == "Tversion" {
		values["tag"] = "0xffff"
	}
	if err := parseFields(rest, values); err != nil {
		return nil, fmt.Errorf("encoding %q: %w", line, err)
	}
	tag, err := strconv.ParseUint(values["tag"], 0, 16)
	if err != nil {
		return nil, fmt.Errorf("encoding %q: %w", line, err)
	}
	b := []byte{0, 0, 0, 0, m.typ, byte(tag), byte(tag >> 8)}
	for _, f := range m.fields {
		if b, err = appendField(b, f.kind, values[f.name]); err != nil {
			return nil, fmt.Errorf("encoding %q, field %s: %w", line, f.name, err)
		}
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	return b, nil
}

// parseFields reads "name=value" items: values are words, quoted strings or
// bracketed lists of quoted strings.
func parseFields(s string, values map[string]string) error {
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		name, rest, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("no value at %q", s)
		}
		var value string
		switch {
		case strings.HasPrefix(rest, `"`):
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return fmt.Errorf("value at %q: %w", rest, err)
			}
			value = quoted
		case strings.HasPrefix(rest, "["):
			end := strings.Index(rest, "]")
			if end < 0 {
				return fmt.Errorf("list without end at %q", rest)
			}
			value = rest[:end+1]
		default:
			value, _, _ = strings.Cut(rest, " ")
		}
		values[name] = value
		s = rest[len(value):]
	}
	return nil
}

func appendField(b []byte, kind, value string) ([]byte, error) {
	switch kind {
	case "1", "2", "4", "8":
		return appendInt(b, int(kind[0]-'0'), value)
	case "s":
		s, err := unquote(value)
		return append(binary.LittleEndian.AppendUint16(b, uint16(len(s))), s...), err
	case "d":
		s, err := unquote(value)
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...), err
	case "S":
		return appendStrings(b, strings.TrimSuffix(strings.TrimPrefix(value, "["), "]"))
	}
	return nil, fmt.Errorf("kind %s cannot be encoded", kind)
}

func appendInt(b []byte, size int, value string) ([]byte, error) {
	if value == "" {
		value = "0"
	}
	v, err := strconv.ParseUint(value, 0, size*8)
	for range size {
		b = append(b, byte(v))
		v >>= 8
	}
	return b, err
}

func unquote(value string) (string, error) {
	if value == "" {
		return "", nil
	}
	return strconv.Unquote(value)
}

func appendStrings(b []byte, list string) ([]byte, error) {
	at, n := len(b), uint16(0)
	b = append(b, 0, 0)
	for list = strings.TrimSpace(list); list != ""; list = strings.TrimSpace(list) {
		quoted, err := strconv.QuotedPrefix(list)
		if err != nil {
			return nil, fmt.Errorf("string at %q: %w", list, err)
		}
		if b, err = appendField(b, "s", quoted); err != nil {
			return nil, err
		}
		list = list[len(quoted):]
		n++
	}
	binary.LittleEndian.PutUint16(b[at:], n)
	return b, nil
}

var errShortMessage = errors.New("message ends within a field")

// Decode turns a message into a line of text. Bytes of content longer than 64
// are given by their number and CRC-32.
func Decode(msg []byte) (string, error) {
	if len(msg) < 7 || int(binary.LittleEndian.Uint32(msg)) != len(msg) {
		return "", fmt.Errorf("decoding % x: not one message", msg)
	}
	m, ok := lookupMessage(msg[4], "")
	if !ok {
		return "", fmt.Errorf("decoding % x: unknown message %d", msg, msg[4])
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s tag=%d", m.name, binary.LittleEndian.Uint16(msg[5:]))
	r := reader{b: msg[7:]}
	for _, f := range m.fields {
		fmt.Fprintf(&out, " %s=%s", f.name, r.field(f))
	}
	switch {
	case r.short:
		return out.String(), fmt.Errorf("decoding %s: %w", out.String(), errShortMessage)
	case len(r.b) > 0:
		return out.String(), fmt.Errorf("decoding %s: %d bytes too many", out.String(), len(r.b))
	}
	return out.String(), nil
}

// reader takes fields off a message.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.short, r.b = true, nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) int(size int) uint64 {
	var v uint64
	b := r.bytes(size)
	for i := len(b) - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}

func (r *reader) qid() string {
	typ, version, path := r.int(1), r.int(4), r.int(8)
	return fmt.Sprintf("(%x.%d.%d)", typ, version, path)
}

func (r *reader) field(f field) string {
	switch f.kind {
	case "s":
		return strconv.Quote(string(r.bytes(int(r.int(2)))))
	case "q":
		return r.qid()
	case "Q":
		var qids []string
		for range r.int(2) {
			qids = append(qids, r.qid())
		}
		return "[" + strings.Join(qids, " ") + "]"
	case "d":
		return quoteData(r.bytes(int(r.int(4))))
	case "e":
		return (&reader{b: r.bytes(int(r.int(4)))}).entries()
	case "S":
		var names []string
		for range r.int(2) {
			names = append(names, strconv.Quote(string(r.bytes(int(r.int(2))))))
		}
		return "[" + strings.Join(names, " ") + "]"
	}
	v := r.int(int(f.kind[0] - '0'))
	if f.name == "mode" {
		return "0o" + strconv.FormatUint(v, 8)
	}
	return strconv.FormatUint(v, 10)
}

func quoteData(b []byte) string {
	if len(b) <= 64 {
		return strconv.Quote(string(b))
	}
	return fmt.Sprintf("<%d bytes, crc32 %08x>", len(b), crc32.ChecksumIEEE(b))
}

// entries gives directory entries as [qid offset type "name", …].
func (r *reader) entries() string {
	var list []string
	for len(r.b) > 0 {
		qid, offset, typ := r.qid(), r.int(8), r.int(1)
		list = append(list, fmt.Sprintf("%s %d %d %q", qid, offset, typ, r.bytes(int(r.int(2)))))
	}
	return "[" + strings.Join(list, ", ") + "]"
}
