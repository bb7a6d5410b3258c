package estargz_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/inflate"
)

// chunked cuts data into chunks of one member, with gaps of a byte in between.
func chunked(data []byte, size int) (chunks []estargz.Chunk) {
	for at := 1; at < len(data); at += size + 1 {
		n := min(size, len(data)-at)
		chunks = append(chunks, estargz.Chunk{
			Digest: estargz.Sum(data[at : at+n]), Member: 77, Inner: int64(at), Size: int64(n),
		})
	}
	return chunks
}

func decode(member []byte, want []estargz.Chunk) (got [][]byte, err error) {
	err = estargz.DecodeMember(member, want, func(i int, p []byte) error {
		if i != len(got) {
			return errors.New("out of order")
		}
		got = append(got, bytes.Clone(p))
		return nil
	})
	return got, err
}

func TestDecodeMember(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	// Larger than what is decoded in one go.
	data := make([]byte, 5<<20)
	for i := range data {
		data[i] = byte(rng.ExpFloat64() * 4)
	}
	member := pack(t, data)
	for _, size := range []int{4 << 10, 100_000, 9 << 19, len(data)} {
		all := chunked(data, size)
		for _, want := range [][]estargz.Chunk{nil, all[:1], all[len(all)-1:], all} {
			got, err := decode(member, want)
			if err != nil || len(got) != len(want) {
				t.Fatalf("%d of %d chunks of %d: got %d, %v", len(want), len(all), size, len(got), err)
			}
			for i, c := range want {
				if !bytes.Equal(got[i], data[c.Inner:c.Inner+c.Size]) {
					t.Errorf("chunk %d of %d differs", i, size)
				}
			}
		}
	}
}

// TestDecodeMemberNeedsOnlyTheFront cuts off what is behind the last chunk.
func TestDecodeMemberNeedsOnlyTheFront(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	data := make([]byte, 400_000)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	want := chunked(data, 1000)[:10]
	c := want[9]
	c.MemberSize = 1 << 40
	member := pack(t, data)[:c.FetchSize()]
	if got, err := decode(member, want); err != nil || len(got) != 10 {
		t.Errorf("%d chunks, %v", len(got), err)
	}
	if c.MemberSize = 5; c.FetchSize() != 5 {
		t.Errorf("FetchSize is %d, larger than the member", c.FetchSize())
	}
}

func TestDecodeMemberRefuses(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	member := pack(t, data)
	good := chunked(data, 100)[:2]
	bad := func(i int, edit func(*estargz.Chunk)) []estargz.Chunk {
		c := append([]estargz.Chunk(nil), good...)
		edit(&c[i])
		return c
	}
	late := estargz.Chunk{Inner: 9_990, Size: 11}
	tests := []struct {
		name   string
		member []byte
		want   []estargz.Chunk
		err    error
		kind   fserr.Kind
		passed int
	}{
		{"digest", member, bad(1, func(c *estargz.Chunk) { c.Digest[0]++ }), estargz.ErrDigest, fserr.Corrupt, 1},
		{"no member", nil, good, inflate.ErrHeader, fserr.Corrupt, 0},
		{"not gzip", []byte("something else, longer than a header"), good, inflate.ErrHeader, fserr.Corrupt, 0},
		{"cut", member[:15], good[:1], inflate.ErrTruncated, fserr.Corrupt, 0},
		{"beyond the end", member, []estargz.Chunk{late}, inflate.ErrShort, fserr.Corrupt, 0},
		{"size 2^62", member, bad(1, func(c *estargz.Chunk) { c.Size = 1 << 62 }), inflate.ErrTruncated, fserr.Corrupt, 0},
		{"overflow", member, bad(1, func(c *estargz.Chunk) { c.Inner, c.Size = 1<<62, 1<<62 }), nil, fserr.Invalid, 0},
		{"no size", member, bad(0, func(c *estargz.Chunk) { c.Size = 0 }), nil, fserr.Invalid, 0},
		{"negative place", member, bad(0, func(c *estargz.Chunk) { c.Inner = -1 }), nil, fserr.Invalid, 0},
		{"order", member, []estargz.Chunk{good[1], good[0]}, nil, fserr.Invalid, 0},
		{"another member", member, bad(1, func(c *estargz.Chunk) { c.Member++ }), nil, fserr.Invalid, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decode(tt.member, tt.want)
			if fserr.KindOf(err) != tt.kind || tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("%v (%v), want %v (%v)", err, fserr.KindOf(err), tt.err, tt.kind)
			}
			if len(got) != tt.passed {
				t.Errorf("%d chunks were passed on, want %d", len(got), tt.passed)
			}
		})
	}
}

func TestDecodeMemberErrorsInParts(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	data := make([]byte, 6<<20)
	for i := range data {
		data[i] = byte(rng.ExpFloat64())
	}
	member := pack(t, data)
	want := []estargz.Chunk{{Inner: 1 << 20, Size: 1 << 20}, {Inner: 5 << 20, Size: 1 << 20}}
	for i := range want {
		want[i].Digest = estargz.Sum(data[want[i].Inner:][:want[i].Size])
	}
	if got, err := decode(member, want); err != nil || len(got) != 2 {
		t.Fatalf("%d chunks, %v", len(got), err)
	}
	for _, cut := range []int{100, len(member) / 2, len(member) - 20} {
		_, err := decode(append(member[:cut:cut], make([]byte, len(member))...), want)
		if fserr.KindOf(err) != fserr.Corrupt {
			t.Errorf("damaged at %d: %v", cut, err)
		}
	}
	want[1].Size++
	if _, err := decode(member, want); !errors.Is(err, inflate.ErrShort) {
		t.Errorf("a byte too many: %v", err)
	}
	want[1].Inner += 1 << 20
	if _, err := decode(member, want); !errors.Is(err, inflate.ErrShort) {
		t.Errorf("behind the end: %v", err)
	}
}

func TestDecodeMemberStopsWithCaller(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	stop := errors.New("enough")
	err := estargz.DecodeMember(pack(t, data), chunked(data, 100), func(int, []byte) error { return stop })
	if !errors.Is(err, stop) {
		t.Error(err)
	}
}

func TestDecodeMemberAllocatesLittle(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 20_000)
	member, want := pack(t, data), chunked(data, 10_000)
	got := testing.AllocsPerRun(20, func() {
		if err := estargz.DecodeMember(member, want, func(int, []byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
	})
	if got >= 2 && !raceEnabled {
		t.Errorf("%v allocations per call", got)
	}
}
