package profile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/klauspost/compress/zstd"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// The file of a profile: magic, version, the length of what follows when it is
// unpacked (4 bytes, little endian), the sha256 of what follows as it is; then one
// zstd frame. In it, the numbers of the profile, and its entries column by column,
// which packs best.
const (
	magic      = "nplyprf"
	version    = 1
	headerSize = len(magic) + 1 + 4 + sha256.Size

	maxEntryRaw = 64 // of an entry, unpacked, bytes
	maxRaw      = 1024 + MaxLayers*(sha256.Size+1) + MaxEntries*maxEntryRaw
)

// MediaType is that of an encoded profile.
const MediaType = "application/vnd.nineply.profile.v1"

// Encode gives the file of a profile. The entries at the end are left out when
// they do not fit into MaxSize bytes.
func Encode(p *Profile) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	cut := *p
	for {
		data, err := encode(&cut)
		if err != nil || len(data) <= MaxSize {
			return data, err
		}
		fit := int(float64(len(cut.Entries)) * 0.95 * MaxSize / float64(len(data)))
		cut.Entries = cut.Entries[:fit]
	}
}

func encode(p *Profile) ([]byte, error) {
	return seal(p.appendRaw(nil))
}

// seal packs the unpacked form of a profile.
func seal(raw []byte) ([]byte, error) {
	out := make([]byte, headerSize, headerSize+len(raw)/2)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("encode profile: %w", err)
	}
	out = enc.EncodeAll(raw, out)
	copy(out, magic)
	out[len(magic)] = version
	binary.LittleEndian.PutUint32(out[len(magic)+1:], uint32(len(raw)))
	sum := sha256.Sum256(out[headerSize:])
	copy(out[headerSize-len(sum):], sum[:])
	return out, enc.Close()
}

func (p *Profile) appendRaw(b []byte) []byte {
	b = append(b, p.Manifest[:]...)
	b = binary.AppendUvarint(b, uint64(p.Runs))
	b = binary.AppendUvarint(b, uint64(p.Partial))
	b = binary.AppendUvarint(b, uint64(len(p.Layers)))
	for _, l := range p.Layers {
		b = append(append(b, l.Digest[:]...), byte(l.Space))
	}
	b = binary.AppendUvarint(b, uint64(len(p.Entries)))
	for _, col := range columns() {
		p.eachEntry(func(i int, e *Entry, near neighbours) error {
			b = binary.AppendVarint(b, col.get(e)-col.guess(i, e, near))
			return nil
		})
	}
	for i := range p.Entries {
		b = binary.BigEndian.AppendUint64(b, uint64(p.Entries[i].Short))
	}
	return b
}

// neighbours are the entries that come before one, from which its numbers are
// guessed.
type neighbours struct {
	last  *Entry // in the profile
	layer *Entry // in the same layer
	space Space
}

// eachEntry calls fn with the entries in order. An entry that is in no layer has
// no neighbours there.
func (p *Profile) eachEntry(fn func(i int, e *Entry, near neighbours) error) {
	none := new(Entry)
	last := none
	layers := make([]*Entry, len(p.Layers))
	for i := range p.Entries {
		e := &p.Entries[i]
		near := neighbours{last: last, layer: none}
		if e.Layer >= 0 && e.Layer < len(layers) {
			near.space = p.Layers[e.Layer].Space
			if layers[e.Layer] != nil {
				near.layer = layers[e.Layer]
			}
			layers[e.Layer] = e
		}
		if fn(i, e, near) != nil {
			return
		}
		last = e
	}
}

// column is one number of every entry, written as its difference to a guess.
type column struct {
	get   func(e *Entry) int64
	set   func(e *Entry, v int64) (ok bool)
	guess func(i int, e *Entry, near neighbours) int64 // from columns before this one, and neighbours
}

func columns() []column {
	cols := []column{{
		get:   func(e *Entry) int64 { return int64(e.Layer) },
		set:   func(e *Entry, v int64) bool { e.Layer = int(v); return v >= 0 && v < MaxLayers },
		guess: func(_ int, _ *Entry, near neighbours) int64 { return int64(near.last.Layer) },
	}, {
		get:   func(e *Entry) int64 { return e.Size },
		set:   func(e *Entry, v int64) bool { e.Size = v; return inRange(v) },
		guess: func(int, *Entry, neighbours) int64 { return 0 },
	}, {
		get: func(e *Entry) int64 { return e.Member },
		set: func(e *Entry, v int64) bool { e.Member = v; return inRange(v) },
		guess: func(_ int, _ *Entry, near neighbours) int64 {
			if near.space == Unpacked {
				return near.layer.Member + near.layer.Size
			}
			return near.layer.Member
		},
	}, {
		get: func(e *Entry) int64 { return e.Inner },
		set: func(e *Entry, v int64) bool { e.Inner = v; return inRange(v) },
		guess: func(_ int, e *Entry, near neighbours) int64 {
			if near.space == Packed && e.Member == near.layer.Member {
				return near.layer.Inner + near.layer.Size
			}
			return 0
		},
	}, {
		get:   func(e *Entry) int64 { return int64(e.At) },
		set:   func(e *Entry, v int64) bool { e.At = uint32(v); return v >= 0 && v <= maxMillis },
		guess: func(_ int, _ *Entry, near neighbours) int64 { return int64(near.last.At) },
	}, {
		get:   func(e *Entry) int64 { return int64(e.Seen) },
		set:   func(e *Entry, v int64) bool { e.Seen = uint8(v); return v >= 0 && v < 1<<Window },
		guess: func(_ int, _ *Entry, near neighbours) int64 { return int64(near.last.Seen) },
	}}
	for r := range Window {
		cols = append(cols, rankColumn(r))
	}
	return cols
}

func rankColumn(r int) column {
	return column{
		get: func(e *Entry) int64 { return int64(e.Ranks[r]) },
		set: func(e *Entry, v int64) bool { e.Ranks[r] = uint32(v); return v >= 0 && v < MaxEntries },
		guess: func(i int, e *Entry, _ neighbours) int64 {
			if e.Seen>>r&1 == 0 {
				return 0
			}
			return int64(i)
		},
	}
}

// Decode reads the file of a profile. Whatever is wrong with it is an
// fserr.Corrupt error, or fserr.Unsupported if a later version wrote it.
func Decode(data []byte) (*Profile, error) {
	raw, err := unpack(data)
	if err != nil {
		return nil, err
	}
	return parse(raw)
}

// parse reads the unpacked form of a profile.
func parse(raw []byte) (*Profile, error) {
	p := new(Profile)
	d := decoder{b: raw}
	if d.profile(p); d.err == nil && len(d.b) > 0 {
		d.err = errors.New("something follows the entries")
	}
	if d.err != nil {
		return nil, fserr.New(fserr.Corrupt, "decode", "profile", d.err)
	}
	return p, p.check()
}

// unpack checks everything about the file but what it says.
func unpack(data []byte) ([]byte, error) {
	corrupt := func(format string, args ...any) ([]byte, error) {
		return nil, fserr.Newf(fserr.Corrupt, "decode", "profile", format, args...)
	}
	switch {
	case len(data) > MaxSize:
		return corrupt("%d bytes, more than %d", len(data), MaxSize)
	case len(data) < headerSize || string(data[:len(magic)]) != magic:
		return corrupt("not the file of a profile")
	case data[len(magic)] != version:
		return nil, fserr.Newf(fserr.Unsupported, "decode", "profile", "version %d, this program knows %d", data[len(magic)], version)
	}
	rest := data[len(magic)+1:]
	size, rest := binary.LittleEndian.Uint32(rest), rest[4:]
	sum, rest := rest[:sha256.Size], rest[sha256.Size:]
	if size > maxRaw {
		return corrupt("%d bytes unpacked, more than %d", size, maxRaw)
	}
	if got := sha256.Sum256(rest); !bytes.Equal(got[:], sum) {
		return corrupt("its checksum is wrong")
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxRaw))
	if err != nil {
		return nil, fmt.Errorf("decode profile: %w", err)
	}
	defer dec.Close()
	raw, err := dec.DecodeAll(rest, nil)
	if err != nil {
		return corrupt("%w", err)
	}
	if len(raw) != int(size) {
		return corrupt("%d bytes unpacked, not %d", len(raw), size)
	}
	return raw, nil
}

// decoder reads numbers until the first error.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err, d.b = err, nil
	}
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.fail(errors.New("it ends early"))
		return make([]byte, n)
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

// count reads a number of at most limit.
func (d *decoder) count(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit {
		d.fail(errors.New("a number is out of range"))
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) signed() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail(errors.New("a number is out of range"))
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) profile(p *Profile) {
	copy(p.Manifest[:], d.take(len(p.Manifest)))
	p.Runs = uint32(d.count(math.MaxUint32))
	p.Partial = uint32(d.count(maxPartial))
	p.Layers = make([]Layer, d.count(MaxLayers))
	for i := range p.Layers {
		copy(p.Layers[i].Digest[:], d.take(len(estargz.Digest{})))
		p.Layers[i].Space = Space(d.take(1)[0])
	}
	n := d.count(MaxEntries)
	if n*8 > uint64(len(d.b)) { // each has more than that
		d.fail(errors.New("it ends early"))
		return
	}
	p.Entries = make([]Entry, n)
	for _, col := range columns() {
		p.eachEntry(func(i int, e *Entry, near neighbours) error {
			if !col.set(e, d.signed()+col.guess(i, e, near)) {
				d.fail(fmt.Errorf("entry %d: a number is out of range", i))
			}
			return d.err
		})
	}
	for i := range p.Entries {
		p.Entries[i].Short = Short(binary.BigEndian.Uint64(d.take(8)))
	}
}
