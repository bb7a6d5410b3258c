package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/faultfs"
)

const damageChunks = 12

// filled gives a disk with one segment of a few chunks, sealed or not.
func filled(t *testing.T, sealed bool) (disk, string) {
	t.Helper()
	k := newDisk()
	s := open(t, k.options(0))
	for i := range damageChunks {
		d, data := chunkOf(i, 9000)
		put(t, s, d, data)
	}
	if !sealed {
		if err := s.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		k.fs = k.fs.AfterKill()
	}
	closeStore(t, s)
	return k, segmentNames(k.fs)[0]
}

func segmentNames(f *faultfs.FS) []string {
	return slices.DeleteFunc(f.Names(), func(name string) bool { return !strings.HasSuffix(name, ".seg") })
}

// TestFlippedByteAnywhere damages each part of a segment file in turn, once
// before open and once behind the back of an open store: damaged chunks are
// not found, all others right, and what is put again is there again.
func TestFlippedByteAnywhere(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		k, name := filled(t, sealed)
		size := len(contentOf(k.fs, name))
		missing := 0
		for at := 0; at < size; at += 37 {
			one := disk{k.fs.AfterKill(), k.idx}
			flipAt(one.fs, name, at)
			missing += checkDamaged(t, one, nil)
		}
		for at := 11; at < size; at += 997 {
			one := disk{k.fs.AfterKill(), k.idx}
			missing += checkDamaged(t, one, func() { flipAt(one.fs, name, at) })
		}
		if missing == 0 {
			t.Errorf("sealed %v: no flip was noticed", sealed)
		}
	}
}

func flipAt(f *faultfs.FS, name string, at int) {
	f.Edit(name, func(data []byte) { data[at] ^= 0x10 })
}

func contentOf(f *faultfs.FS, name string) (data []byte) {
	f.Edit(name, func(p []byte) { data = bytes.Clone(p) })
	return data
}

// checkDamaged opens a store in which at most one chunk can be damaged, does
// the damage if it was not done before, and says how many chunks are gone.
func checkDamaged(t *testing.T, k disk, harm func()) int {
	t.Helper()
	s := open(t, k.options(0))
	defer closeStore(t, s)
	if harm != nil {
		for i := range damageChunks {
			checkChunk(t, s, i, 9000)
		}
		harm()
	}
	missing := 0
	for i := range damageChunks {
		d, data := chunkOf(i, 9000)
		got, err := readAll(s, d, len(data)+1)
		switch {
		case errors.Is(err, chunkstore.ErrNotFound):
			missing++
			if s.Has(d) {
				t.Fatalf("damaged chunk %d still listed", i)
			}
			put(t, s, d, data)
			checkChunk(t, s, i, 9000)
		case err != nil:
			t.Fatalf("chunk %d: %v", i, err)
		case !bytes.Equal(got, data):
			t.Fatalf("chunk %d: wrong bytes", i)
		}
	}
	if missing > 1 {
		t.Fatalf("%d chunks lost to one flip", missing)
	}
	return missing
}

func TestVerifyDropsDamaged(t *testing.T) {
	k, name := filled(t, true)
	s := open(t, k.options(0))
	flipAt(k.fs, name, 5000)
	bad := 0
	check := func(c chunkstore.Checked) error {
		if c.Err != nil {
			bad++
			if s.Has(c.Digest) {
				t.Error("damaged chunk still listed")
			}
		}
		return nil
	}
	for range 2 { // the second finds nothing
		if err := s.Verify(context.Background(), check); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); bad != 1 || st.Corrupt != 1 || st.Chunks != damageChunks-1 {
		t.Errorf("%d bad, %+v", bad, st)
	}
	stop := errors.New("stop")
	if err := s.Verify(context.Background(), func(chunkstore.Checked) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("verify: %v", err)
	}
}

// TestForgedRecord stores a chunk whose payload is a copy of the segment file
// with another payload: neither a scan nor a rebuild may believe it.
func TestForgedRecord(t *testing.T) {
	k, name := filled(t, true)
	image := contentOf(k.fs, name)
	victim, data := chunkOf(3, 9000)
	at := bytes.Index(image, data)
	forged := bytes.Clone(image)
	copy(forged[at:], bytes.Repeat([]byte("evil"), len(data)/4))

	s := open(t, k.options(0))
	put(t, s, sum(forged), forged)
	closeStore(t, s)
	names := segmentNames(k.fs)
	flipAt(k.fs, names[len(names)-1], 64) // the header in front of the forgery
	k.idx = newIndex(k.fs)
	s = open(t, k.options(0))
	if got, err := readAll(s, victim, len(data)); err == nil && !bytes.Equal(got, data) {
		t.Fatal("forged record served")
	}
	if err := s.Rebuild(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(s, victim, len(data)); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("after rebuild: %v", err)
	}
}

func TestMissingSegment(t *testing.T) {
	k, name := filled(t, true)
	if err := k.fs.Remove(name); err != nil {
		t.Fatal(err)
	}
	s := open(t, k.options(0))
	for i := range damageChunks {
		d, data := chunkOf(i, 9000)
		if s.Has(d) {
			t.Errorf("chunk %d of a missing segment is listed", i)
		}
		put(t, s, d, data)
		checkChunk(t, s, i, 9000)
	}
	for _, other := range segmentNames(k.fs) {
		if other == name {
			t.Errorf("segment id %s used again", name)
		}
	}
}

func TestForeignFilesAreLeftAlone(t *testing.T) {
	k, _ := filled(t, true)
	for _, name := range []string{"/cache/segments/README", "/cache/segments/1.seg", "/cache/segments/zzzzzzzz.seg", "/cache/segments/00000000.seg"} {
		h, err := k.fs.OpenFile(name, createFlags, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	before := len(k.fs.Names())
	s := open(t, k.options(0))
	for i := range damageChunks {
		checkChunk(t, s, i, 9000)
	}
	closeStore(t, s)
	if after := len(k.fs.Names()); after != before {
		t.Errorf("%d files, before %d", after, before)
	}
}
