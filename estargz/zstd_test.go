package estargz_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/inflate"
)

// packZstd compresses p as one frame that says how long it is, or streams it so
// that it does not.
func packZstd(tb testing.TB, p []byte, streamed bool, opts ...zstd.EOption) []byte {
	tb.Helper()
	var buf bytes.Buffer
	zw, err := zstd.NewWriter(&buf, append(opts, zstd.WithEncoderConcurrency(1))...)
	if err != nil {
		tb.Fatal(err)
	}
	if !streamed {
		return zw.EncodeAll(p, nil)
	}
	// In pieces, or the encoder would see the end coming.
	for rest := p; len(rest) > 0; rest = rest[min(len(rest), 50_000):] {
		if _, err := zw.Write(rest[:min(len(rest), 50_000)]); err != nil {
			tb.Fatal(err)
		}
	}
	if err := zw.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// rleFrame is a frame of blocks of one repeated byte: 4 bytes become size, up to
// 128 KiB, blocks times.
func rleFrame(windowLog, blocks, size int) []byte {
	p := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, byte(windowLog-10) << 3}
	for i := range blocks {
		head := uint32(size)<<3 | 1<<1
		if i == blocks-1 {
			head |= 1
		}
		p = append(p, byte(head), byte(head>>8), byte(head>>16), 'x')
	}
	return p
}

func TestDecodeZstd(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	data := make([]byte, 5<<20)
	for i := range data {
		data[i] = byte(rng.ExpFloat64() * 4)
	}
	skippable := "\x50\x2a\x4d\x18\x05\x00\x00\x00hello"
	many := packZstd(t, data[:1000], true)
	for at := 1000; at < len(data); at += 700_001 {
		if at > 1_000_000 {
			many = append(many, skippable...)
		}
		many = append(many, packZstd(t, data[at:min(len(data), at+700_001)], at%2 == 0)...)
	}
	var cuts [][]estargz.Chunk
	for _, size := range []int{4 << 10, 100_000, 9 << 19, len(data)} {
		cuts = append(cuts, chunked(data, size))
	}
	for name, member := range map[string][]byte{
		"one frame": packZstd(t, data, false), "streamed": packZstd(t, data, true), "many frames": many,
		"large window": packZstd(t, data, true, zstd.WithWindowSize(32<<20)),
		"checksum":     packZstd(t, data, false, zstd.WithEncoderCRC(true)),
		"no checksum":  packZstd(t, data, true, zstd.WithEncoderCRC(false)),
	} {
		t.Run(name, func(t *testing.T) {
			for _, all := range cuts {
				for _, want := range [][]estargz.Chunk{nil, all[:1], all[len(all)-1:], all} {
					got, err := decode(member, want)
					if err != nil || len(got) != len(want) {
						t.Fatalf("%d of %d chunks of %d: got %d, %v", len(want), len(all), all[0].Size, len(got), err)
					}
					for i, c := range want {
						if !bytes.Equal(got[i], data[c.Inner:c.Inner+c.Size]) {
							t.Errorf("chunk %d of %d differs", i, all[0].Size)
						}
					}
				}
			}
		})
	}
}

// TestDecodeZstdNeedsOnlyTheFront cuts off what is behind the last chunk.
func TestDecodeZstdNeedsOnlyTheFront(t *testing.T) {
	rng := rand.New(rand.NewPCG(23, 24))
	data := make([]byte, 1_000_000)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	for _, streamed := range []bool{true, false} {
		member := packZstd(t, data, streamed)
		// Blocks are of 128 KiB, and a block is needed whole.
		want := chunked(data[:128<<10], 1000)
		if got, err := decode(member[:130<<10], want); err != nil || len(got) != len(want) {
			t.Errorf("streamed %v: %d chunks, %v", streamed, len(got), err)
		}
	}
}

func TestDecodeZstdRefuses(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	member := packZstd(t, data, false)
	good := chunked(data, 100)[:2]
	one := func(inner, size int64) []estargz.Chunk {
		return []estargz.Chunk{{Inner: inner, Size: size, Digest: estargz.Sum(data[:100])}}
	}
	edited := func(at int, b byte) []byte {
		p := bytes.Clone(member)
		p[at] = b
		return p
	}
	tests := []struct {
		name   string
		member []byte
		want   []estargz.Chunk
		err    error
	}{
		{"digest", member, one(0, 101), estargz.ErrDigest},
		{"magic alone", member[:4], good, inflate.ErrShort},
		{"header cut", member[:6], good, inflate.ErrShort},
		{"cut", member[:len(member)-6], one(0, 10_000), estargz.ErrZstd},
		{"damaged", edited(len(member)-8, member[len(member)-8]^0xff), one(0, 10_000), estargz.ErrZstd},
		{"a byte too many", member, one(0, 10_001), inflate.ErrShort},
		{"behind the end", member, one(20_000, 1), inflate.ErrShort},
		{"size 2^62", member, one(0, 1<<62), inflate.ErrShort},
		{"chunk of 64 MiB", member, one(0, 64<<20), inflate.ErrShort},
		{"window of 64 MiB", rleFrame(26, 1, 1000), one(0, 1000), estargz.ErrZstdWindow},
		{"window of 2 TiB", rleFrame(41, 1, 1000), one(0, 1000), estargz.ErrZstdWindow},
		{"reserved block", []byte("\x28\xb5\x2f\xfd\x00\x58\x0f\x00\x00"), one(0, 1), inflate.ErrShort},
		{"block of 2 MiB", rleFrame(20, 1, 1<<21-1), one(0, 1), inflate.ErrShort},
		{"dictionary", []byte("\x28\xb5\x2f\xfd\x01\x58\x07\x41\x00\x00x"), one(0, 1), estargz.ErrZstd},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			if n := allocated(func() { _, err = decode(tt.member, tt.want) }); n > 8<<20 {
				t.Errorf("%d bytes allocated", n)
			}
			if !errors.Is(err, tt.err) || fserr.KindOf(err) != fserr.KindOf(tt.err) {
				t.Errorf("%v, want %v", err, tt.err)
			}
		})
	}
}

// TestZstdBomb: a kilobyte that becomes 32 MiB is only read as far as wanted.
func TestZstdBomb(t *testing.T) {
	bomb := rleFrame(23, 256, 128<<10)
	front := []estargz.Chunk{{Size: 100, Digest: estargz.Sum(bytes.Repeat([]byte("x"), 100))}}
	if n := allocated(func() {
		if _, err := decode(bomb, front); err != nil {
			t.Error(err)
		}
	}); n > 12<<20 {
		t.Errorf("%d bytes allocated", n)
	}
	end := []estargz.Chunk{{Inner: 32<<20 - 100, Size: 100, Digest: front[0].Digest}}
	if n := allocated(func() {
		if _, err := decode(bomb, end); err != nil {
			t.Error(err)
		}
	}); n > 12<<20 {
		t.Errorf("%d bytes allocated", n)
	}
}

// FuzzDecodeZstd holds DecodeMember against the library's own reader.
func FuzzDecodeZstd(f *testing.F) {
	data := bytes.Repeat([]byte("some text and some more of it. "), 100)
	for _, seed := range [][]byte{
		packZstd(f, data, false), packZstd(f, data, true), packZstd(f, data, false, zstd.WithEncoderCRC(false)),
		append(packZstd(f, data[:700], true), packZstd(f, data[700:], false)...),
		rleFrame(20, 3, 1000), rleFrame(26, 1, 10),
		append([]byte("\x5f\x2a\x4d\x18\x02\x00\x00\x00ab"), packZstd(f, data, false)...),
	} {
		f.Add(seed, uint32(0), uint32(100), uint32(7), uint32(2000))
	}
	f.Fuzz(func(t *testing.T, member []byte, at, size, gap, size2 uint32) {
		at, size, gap, size2 = at%(1<<20), 1+size%(1<<20), gap%(1<<20), 1+size2%(1<<20)
		end := at + size + gap + size2
		if !bytes.HasPrefix(member, []byte("\x28\xb5\x2f\xfd")) {
			return
		}
		plain := make([]byte, end)
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(32<<20))
		if err != nil {
			t.Fatal(err)
		}
		defer dec.Close()
		if err = dec.Reset(struct{ io.Reader }{bytes.NewReader(member)}); err == nil {
			_, err = io.ReadFull(dec, plain)
		}
		chunk := func(from, n uint32) estargz.Chunk {
			return estargz.Chunk{Digest: estargz.Sum(plain[from : from+n]), Inner: int64(from), Size: int64(n)}
		}
		got, gotErr := decode(member, []estargz.Chunk{chunk(at, size), chunk(at+size+gap, size2)})
		switch {
		case err == nil && gotErr != nil:
			t.Fatalf("%v, the library has no objection", gotErr)
		case gotErr == nil && (!bytes.Equal(got[0], plain[at:at+size]) || !bytes.Equal(got[1], plain[end-size2:])):
			t.Fatal("differs")
		}
		if kind := fserr.KindOf(gotErr); gotErr != nil && kind != fserr.Corrupt && kind != fserr.TooLarge {
			t.Fatalf("%v is of kind %v", gotErr, kind)
		}
	})
}

// readZstdTOC reads a TOC whose footer tells its raw length.
func readZstdTOC(packed []byte, raw int, lim estargz.Limits) (got []estargz.Entry, d estargz.Digest, err error) {
	footer := estargz.Footer{TOCOffset: tocOffset + 8, TOCSize: int64(len(packed)), TOCRawSize: int64(raw), Zstd: true}
	d, err = estargz.ReadTOC(packed, footer, lim, func(e *estargz.Entry) error {
		got = append(got, *e)
		return nil
	})
	return got, d, err
}

func TestReadZstdTOC(t *testing.T) {
	digest := `"digest":"sha256:` + hexD + `"`
	json := `{"version":1,"tarSplitDigest":"sha256:` + hexD + `","entries":[
		{"type":"dir","name":"d","mode":493,"modtime":"2024-01-02T03:04:05.123456789+02:00","accesstime":"0001-01-01T00:00:00Z"},
		{"type":"reg","name":"one","size":5,` + digest + `,"offset":9,"endOffset":90,"chunkType":""},
		{"type":"reg","name":"sparse","size":1099511627786,` + digest + `,` + chunkKeys(90, 0, 0, 5) + `,"endOffset":200},
		{"type":"chunk","name":"sparse",` + chunkKeys(200, 0, 5, 1<<40) + `,"chunkType":"zeros"},
		{"type":"chunk","name":"sparse",` + chunkKeys(210, 0, 5+1<<40, 5) + `},
		{"type":"reg","name":"zeros","size":9000000000000000000,"offset":300,"chunkType":"zeros"}]}`
	json = strings.ReplaceAll(json, "5+1<<40", "1099511627781")
	got, d, err := readZstdTOC(packZstd(t, []byte(json), false), len(json), estargz.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if d != estargz.Sum([]byte(json)) {
		t.Error("digest is not that of the JSON")
	}
	if len(got) != 6 || got[0].ModTime.Nanosecond() != 123456789 || got[0].ModTime.Hour() != 1 {
		t.Fatalf("%+v", got)
	}
	if e := got[1]; !e.HasChunkDigest || e.ChunkSize != 5 || e.Hole {
		t.Errorf("a file of one chunk: %+v", e)
	}
	if e := got[3]; !e.Hole || e.ChunkSize != 1<<40 {
		t.Errorf("a hole: %+v", e)
	}
	if e := got[5]; !e.Hole || e.ChunkSize != 9e18 {
		t.Errorf("a file of zeros: %+v", e)
	}
	// In a gzip blob the key means nothing.
	if _, _, err := readAll(tocMember(t, json), estargz.Limits{}); !errors.Is(err, estargz.ErrChunkSize) {
		t.Errorf("zeros in eStargz: %v", err)
	}
}

// zeroChunk is a further chunk that is a hole.
func zeroChunk(offset, inner, at, size int64) string {
	return `{"type":"chunk",` + chunkKeys(offset, inner, at, size) + `,"chunkType":"zeros"}`
}

func TestReadZstdTOCHostile(t *testing.T) {
	for _, h := range hostileTOCs() {
		t.Run(h.name, func(t *testing.T) {
			packed := packZstd(t, []byte(h.json), true)
			for _, raw := range []int{0, len(h.json)} {
				refused(t, func() error { _, _, err := readZstdTOC(packed, raw, estargz.Limits{}); return err }, h.want, 48<<20)
			}
		})
	}
	ok := entries()
	good := packZstd(t, []byte(ok), false)
	half := entries(reg5(chunkKeys(9, 0, 0, 2)), zeroChunk(9, 2, 2, 4))
	tests := []struct {
		name   string
		packed []byte
		raw    int
		want   error
	}{
		{"raw length too long", good, len(ok) + 1, estargz.ErrTOCRawSize},
		{"raw length too short", good, len(ok) - 1, estargz.ErrTOCSyntax},
		{"more behind the JSON", packZstd(t, []byte(ok+"\n\n"), false), len(ok), estargz.ErrTOCRawSize},
		{"raw length 2^40", good, 1 << 40, estargz.ErrTOCSize},
		{"512 MiB of blanks", rleFrame(23, 4096, 128<<10), 0, estargz.ErrTOCSyntax},
		{"cut", good[:len(good)-7], len(ok), estargz.ErrZstd},
		{"window of 2 TiB", rleFrame(41, 1, 1000), 1000, estargz.ErrZstdWindow},
		{"hole beyond the file", packZstd(t, []byte(half), false), len(half), estargz.ErrTiling},
		{"hole over a chunk", zstdOf(t, entries(`{"name":"a","type":"reg","size":15,`+chunkKeys(9, 5, 0, 5)+`}`, zeroChunk(9, 4, 5, 10))), 0, estargz.ErrOffset},
		{"chunk in a hole", zstdOf(t, entries(`{"name":"a","type":"reg","size":4611686018427387904,`+chunkKeys(9, 5, 0, 5)+`}`,
			zeroChunk(9, 10, 5, 1<<62-10), `{"type":"chunk",`+chunkKeys(9, 1000, 1<<62-5, 5)+`}`)), 0, estargz.ErrOffset},
		{"hole at 2^40", zstdOf(t, entries(`{"name":"a","type":"reg","size":5,`+chunkKeys(1<<40, 0, 0, 5)+`,"chunkType":"zeros"}`)), 0, estargz.ErrOffset},
		{"unknown chunk type", zstdOf(t, entries(`{"name":"a","type":"reg","size":5,`+chunkKeys(9, 0, 0, 5)+`,"chunkType":"ones"}`)), 0, estargz.ErrEntryType},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			refused(t, func() error { _, _, err := readZstdTOC(tt.packed, tt.raw, estargz.Limits{}); return err }, tt.want, 48<<20)
		})
	}
}

func zstdOf(tb testing.TB, json string) []byte { return packZstd(tb, []byte(json), false) }

// blanks is a TOC of spaces, n times 128 KiB.
func blanks(n int) []byte {
	return bytes.ReplaceAll(rleFrame(23, n, 128<<10), []byte("x"), []byte(" "))
}

func TestZstdTOCOfBlanks(t *testing.T) {
	for name, raw := range map[string]int{"known length": 512 << 20, "unknown": 0} {
		t.Run(name, func(t *testing.T) {
			refused(t, func() error { _, _, err := readZstdTOC(blanks(4096), raw, estargz.Limits{}); return err }, estargz.ErrTOCSize, 48<<20)
		})
	}
}

// FuzzReadZstdTOC feeds JSON to the parser as a TOC of zstd:chunked, and bytes
// that may be no frame.
func FuzzReadZstdTOC(f *testing.F) {
	f.Add([]byte(entries(reg5(chunkKeys(9, 0, 0, 2)), zeroChunk(9, 2, 2, 3))), false)
	f.Add([]byte(entries(`{"name":"a","type":"reg","size":4611686018427387904,"offset":9,"chunkType":"zeros"}`)), false)
	f.Add([]byte(entries(`{"name":"d","type":"dir","modtime":"2024-01-02T03:04:05.123456789+02:00","xattrs":{"user.a":"AA=="}}`)), false)
	f.Add(zstdOf(f, entries(reg5(chunkKeys(9, 0, 0, 5)))), true)
	f.Add(blanks(3), true)
	f.Fuzz(func(t *testing.T, text []byte, raw bool) {
		packed := text
		if !raw {
			// A frame of raw blocks, so that the fuzzer's changes reach the parser.
			packed = append([]byte("\x28\xb5\x2f\xfd\x00\x58"), blocksOf(text)...)
		} else if !bytes.HasPrefix(text, []byte("\x28\xb5\x2f\xfd")) {
			return
		}
		got, d, err := readZstdTOC(packed, 0, estargz.Limits{Entries: 1000, TOCSize: 8 << 20})
		if err != nil {
			switch kind := fserr.KindOf(err); kind {
			case fserr.Corrupt, fserr.TooLarge, fserr.Unsupported:
			default:
				t.Fatalf("%v is of kind %v", err, kind)
			}
			return
		}
		checkPromises(t, got)
		if !raw {
			if d != estargz.Sum(text) {
				t.Fatal("digest is not that of the input")
			}
			checkJSON(t, text, got)
		}
	})
}

// blocksOf wraps p in raw blocks.
func blocksOf(p []byte) (out []byte) {
	for first := true; first || len(p) > 0; first = false {
		n := min(len(p), 100_000)
		head := uint32(n) << 3
		if n == len(p) {
			head |= 1
		}
		out = append(binary.LittleEndian.AppendUint32(out, head)[:len(out)+3], p[:n]...)
		p = p[n:]
	}
	return out
}
