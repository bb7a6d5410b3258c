package mount

import (
	"encoding/binary"

	"github.com/nineply/nineply/internal/p9client"
)

// Message types the relay acts on; all others pass through it unread.
const (
	msgError     = 7
	msgOpen      = 12
	msgXattrWalk = 30
	msgVersion   = 100
	msgAttach    = 104
	msgFlush     = 108
	msgWalk      = 110
	msgClunk     = 120
	msgRemove    = 122

	msgHeader = 7
	noFid     = 0xFFFFFFFF
	noTag     = 0xFFFF
	maxNames  = 16
)

// place is a node as the kernel reached it: names from an attach. Places share
// their beginnings, and live as long as fids refer to them.
type place struct {
	up   *place // nil for the root of an attach
	name string
	at   *attachment
}

// attachment is what a Tattach said, but for the fid.
type attachment struct {
	uname, aname string
	uid          uint32
}

// step is the place reached by one name.
func (p *place) step(name string) *place {
	switch name {
	case ".":
		return p
	case "..":
		if p.up != nil {
			return p.up
		}
		return p
	}
	return &place{up: p, name: name, at: p.at}
}

// names lists the way from the attach.
func (p *place) names() []string {
	n := 0
	for q := p; q.up != nil; q = q.up {
		n++
	}
	out := make([]string, n)
	for q := p; q.up != nil; q = q.up {
		n--
		out[n] = q.name
	}
	return out
}

// relayFid is what the kernel's fid stands for. It is replaced, not changed.
type relayFid struct {
	at    *place
	qid   p9client.QID
	open  bool
	flags uint32 // of the open
	xattr bool   // the fid is attribute name of at ("" for the list)
	name  string
	stale bool // the server has another node there now
}

// frame is a whole message.
type frame []byte

func (f frame) typ() uint8        { return f[4] }
func (f frame) tag() uint16       { return binary.LittleEndian.Uint16(f[5:]) }
func (f frame) setTag(tag uint16) { binary.LittleEndian.PutUint16(f[5:], tag) }
func (f frame) body() fields      { return fields(f[msgHeader:]) }

// fields takes a message body apart; what is missing reads as zero.
type fields []byte

func (f *fields) take(n int) []byte {
	if n > len(*f) {
		*f = nil
		return nil
	}
	v := (*f)[:n]
	*f = (*f)[n:]
	return v
}

func (f *fields) u16() uint16 {
	if v := f.take(2); v != nil {
		return binary.LittleEndian.Uint16(v)
	}
	return 0
}

func (f *fields) u32() uint32 {
	if v := f.take(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

func (f *fields) str() string { return string(f.take(int(f.u16()))) }

func (f *fields) qid() (q p9client.QID) {
	if v := f.take(13); v != nil {
		q = p9client.QID{
			Type: v[0], Version: binary.LittleEndian.Uint32(v[1:]), Path: binary.LittleEndian.Uint64(v[5:]),
		}
	}
	return q
}

// build makes a message of its fields.
func build(typ uint8, tag uint16, parts ...any) frame {
	f := make(frame, msgHeader, 64)
	for _, p := range parts {
		switch v := p.(type) {
		case uint16:
			f = binary.LittleEndian.AppendUint16(f, v)
		case uint32:
			f = binary.LittleEndian.AppendUint32(f, v)
		case string:
			f = append(binary.LittleEndian.AppendUint16(f, uint16(len(v))), v...)
		}
	}
	binary.LittleEndian.PutUint32(f, uint32(len(f)))
	f[4] = typ
	binary.LittleEndian.PutUint16(f[5:], tag)
	return f
}

// fidTable is the kernel's fids as its requests and the server's answers made
// them.
type fidTable map[uint32]*relayFid

// answered notes what the reply to a request did.
func (t fidTable) answered(req, reply frame) {
	ok := reply.typ() == req.typ()+1
	b, r := req.body(), reply.body()
	switch req.typ() {
	case msgVersion:
		clear(t)
	case msgClunk, msgRemove: // gone even if the server objects
		delete(t, b.u32())
	case msgAttach:
		if ok {
			fid, _ := b.u32(), b.u32()
			at := &attachment{uname: b.str(), aname: b.str(), uid: b.u32()}
			t[fid] = &relayFid{at: &place{at: at}, qid: r.qid()}
		}
	case msgWalk:
		if ok {
			t.walked(b, r)
		}
	case msgOpen:
		fid, flags := b.u32(), b.u32()
		if f := t[fid]; ok && f != nil {
			opened := *f
			opened.open, opened.flags = true, flags
			t[fid] = &opened
		}
	case msgXattrWalk:
		from, to, name := b.u32(), b.u32(), b.str()
		if f := t[from]; ok && f != nil {
			t[to] = &relayFid{at: f.at, qid: f.qid, xattr: true, name: name}
		}
	}
}

func (t fidTable) walked(req, reply fields) {
	from, to, n := req.u32(), req.u32(), req.u16()
	f := t[from]
	if f == nil || reply.u16() != n {
		return // refused, or not walked to the end: there is no new fid
	}
	at, qid := f.at, f.qid
	for range n {
		at, qid = at.step(req.str()), reply.qid()
	}
	t[to] = &relayFid{at: at, qid: qid}
}

// subject is the fid a request is about.
func subject(req frame) (uint32, bool) {
	switch req.typ() {
	case msgVersion, msgAttach, msgFlush, 102: // Tauth
		return 0, false
	}
	b := req.body()
	return b.u32(), true
}
