package chunkstore_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fserr"
)

// pattern is n bytes that look like no others.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * i >> 7 * 31)
	}
	return p
}

func TestHashNamesAnySize(t *testing.T) {
	store := open(t, chunkstore.Options{Dir: t.TempDir()})
	defer closeStore(t, store)
	for _, n := range []int{0, 1, 4095, 4096, 4097, 64 << 10, 64<<10 + 1, 1<<20 + 7} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			data := pattern(n)
			v := chunkstore.Hash(data)
			if v.Digest() != sha256.Sum256(data) || !bytes.Equal(v.Data(), data) {
				t.Fatal("not the name of the bytes")
			}
			loc, err := store.PutVerified(t.Context(), v)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, n+1)
			if m, err := store.ReadAt(loc, v.Digest(), got, 0); err != nil || !bytes.Equal(got[:m], data) {
				t.Fatalf("%d bytes, %v", m, err)
			}
		})
	}
}

func TestOnlyVerifiedBytesAreTaken(t *testing.T) {
	store := open(t, chunkstore.Options{Dir: t.TempDir()})
	defer closeStore(t, store)
	if _, err := chunkstore.Verify(sha256.Sum256([]byte("other")), []byte("data")); !errors.Is(err, chunkstore.ErrDigest) {
		t.Errorf("wrong bytes: %v", err)
	}
	var zero chunkstore.Verified
	if _, err := store.PutVerified(t.Context(), zero); fserr.KindOf(err) != fserr.Invalid {
		t.Errorf("nothing verified: %v", err)
	}
	if st := store.Stats(); st.Chunks != 0 {
		t.Errorf("%d chunks are stored", st.Chunks)
	}
}

// Bytes that change between verification and store are never served.
func TestBytesChangedAfterVerificationAreLost(t *testing.T) {
	store := open(t, chunkstore.Options{Dir: t.TempDir()})
	defer closeStore(t, store)
	data := pattern(100_000)
	v := chunkstore.Hash(data)
	data[70_000] ^= 1
	loc, err := store.PutVerified(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if n, err := store.ReadAt(loc, v.Digest(), got, 0); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("%d bytes were read, %v", n, err)
	}
}
