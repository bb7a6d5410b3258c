package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

const layerSize = 300_000

func testRanges(t *testing.T, r *repo) {
	data := Bytes(7, layerSize)
	b := r.blob(r.push("x", data))
	if b.Size() != layerSize {
		t.Fatalf("Size = %d, want %d", b.Size(), layerSize)
	}
	for _, tt := range []struct{ off, n int64 }{
		{0, 1}, {0, layerSize}, {1, layerSize - 1}, {layerSize - 1, 1}, {100_000, 65536}, {12345, 54321}, {0, 0}, {layerSize, 0},
	} {
		p := make([]byte, tt.n)
		if err := b.ReadRange(t.Context(), tt.off, p); err != nil {
			t.Fatalf("ReadRange(%d, %d): %v", tt.off, tt.n, err)
		}
		if !bytes.Equal(p, data[tt.off:tt.off+tt.n]) {
			t.Errorf("ReadRange(%d, %d): wrong bytes", tt.off, tt.n)
		}
	}
	for _, tt := range []struct{ off, n int64 }{
		{-1, 1}, {layerSize, 1}, {layerSize - 1, 2}, {1 << 62, 1}, {layerSize + 1, 0},
	} {
		wantKind(t, b.ReadRange(t.Context(), tt.off, make([]byte, tt.n)), fserr.Invalid)
	}
}

func testConcurrentRanges(t *testing.T, r *repo) {
	data := Bytes(8, layerSize)
	b := r.blob(r.push("x", data))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			off := i * 10_000
			p := make([]byte, 20_000)
			if err := b.ReadRange(t.Context(), int64(off), p); err != nil {
				t.Errorf("ReadRange(%d): %v", off, err)
			} else if !bytes.Equal(p, data[off:off+len(p)]) {
				t.Errorf("ReadRange(%d): wrong bytes", off)
			}
		})
	}
	wg.Wait()
}

func testStream(t *testing.T, r *repo) {
	data := Bytes(9, layerSize)
	b := r.blob(r.push("x", data))
	for _, off := range []int64{0, 1, 150_000, layerSize - 1, layerSize} {
		got, err := readAll(t.Context(), b, off)
		if err != nil {
			t.Fatalf("stream from %d: %v", off, err)
		}
		if !bytes.Equal(got, data[off:]) {
			t.Errorf("stream from %d: wrong bytes", off)
		}
	}
	for _, tt := range [][2]int64{{0, 1}, {1000, 200_000}, {layerSize - 5, 5}, {0, layerSize}, {7, 0}, {layerSize, 0}} {
		rc, err := b.OpenRange(t.Context(), tt[0], tt[1])
		if err != nil {
			t.Fatalf("OpenRange(%d, %d): %v", tt[0], tt[1], err)
		}
		got, err := io.ReadAll(rc)
		if err = errors.Join(err, rc.Close()); err != nil || !bytes.Equal(got, data[tt[0]:tt[0]+tt[1]]) {
			t.Errorf("OpenRange(%d, %d): %d bytes, %v", tt[0], tt[1], len(got), err)
		}
	}
	for _, tt := range [][2]int64{{-1, 1}, {0, layerSize + 1}, {layerSize, 1}, {5, -1}} {
		_, err := b.OpenRange(t.Context(), tt[0], tt[1])
		wantKind(t, err, fserr.Invalid)
	}
	for _, off := range []int64{-1, layerSize + 1} {
		_, err := b.Stream(t.Context(), off)
		wantKind(t, err, fserr.Invalid)
	}
	rc, err := b.Stream(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(rc, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := rc.Close(); err != nil {
		t.Errorf("Close in the middle: %v", err)
	}
	if _, err := rc.Read(make([]byte, 10)); err == nil {
		t.Error("Read after Close works")
	}
	empty := r.blob(r.push("x", nil))
	if got, err := readAll(t.Context(), empty, 0); err != nil || len(got) != 0 {
		t.Errorf("empty blob: %d bytes, %v", len(got), err)
	}
}

func testUnknownSize(t *testing.T, r *repo) {
	data := Bytes(10, 5000)
	desc := r.push("x", data)
	b := r.blob(ocispec.Descriptor{Digest: desc.Digest})
	if b.Size() != 5000 {
		t.Errorf("Size = %d, want 5000", b.Size())
	}
	if got, err := readAll(t.Context(), b, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
	_, err := r.Backend.Blob(t.Context(), r.Ref("latest"), ocispec.Descriptor{Digest: digest.FromString("missing")})
	wantKind(t, err, fserr.NotExist)
}

func testMissing(t *testing.T, r *repo) {
	d := digest.FromString("missing")
	b := r.blob(ocispec.Descriptor{Digest: d, Size: 100})
	err := b.ReadRange(t.Context(), 0, make([]byte, 10))
	wantKind(t, err, fserr.NotExist)
	if !strings.Contains(err.Error(), d.String()) {
		t.Errorf("the error does not name the blob: %v", err)
	}
	_, err = readAll(t.Context(), b, 0)
	wantKind(t, err, fserr.NotExist)
	for _, target := range []string{"missing", d.String()} {
		_, err = r.Backend.Resolve(t.Context(), r.Ref(target), linux("amd64"))
		wantKind(t, err, fserr.NotExist)
	}
}

func testWrongSize(t *testing.T, r *repo) {
	desc := r.push("x", Bytes(11, 5000))
	for _, size := range []int64{4999, 5001} {
		desc.Size = size
		b := r.blob(desc)
		wantKind(t, b.ReadRange(t.Context(), 100, make([]byte, 100)), fserr.Corrupt)
		_, err := readAll(t.Context(), b, 0)
		wantKind(t, err, fserr.Corrupt)
	}
}

func testVerified(t *testing.T, r *repo) {
	data := Bytes(12, 5000)
	desc := r.push("x", data)
	b := r.blob(desc)
	rc, err := b.Stream(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	v := source.Verified(rc, desc.Digest, desc.Size)
	if got, err := io.ReadAll(v); err != nil || !bytes.Equal(got, data) {
		t.Errorf("verified stream: %d bytes, %v", len(got), err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	p := make([]byte, 100)
	err = source.ReadVerified(t.Context(), b, 50, p, func(p []byte) error {
		if !bytes.Equal(p, data[50:150]) {
			return errors.New("wrong bytes")
		}
		return nil
	})
	if err != nil {
		t.Errorf("ReadVerified: %v", err)
	}
	cause := errors.New("never right")
	err = source.ReadVerified(t.Context(), b, 50, p, func([]byte) error { return cause })
	wantKind(t, err, fserr.Corrupt)
	if !errors.Is(err, cause) {
		t.Errorf("the cause is lost: %v", err)
	}
}

func testCanceled(t *testing.T, r *repo) {
	desc := r.push("x", Bytes(13, 5000))
	b := r.blob(desc)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantKind(t, b.ReadRange(ctx, 0, make([]byte, 10)), fserr.Canceled)
	rc, err := b.Stream(ctx, 0)
	if err == nil {
		_, err = rc.Read(make([]byte, 10))
		if cerr := rc.Close(); cerr != nil {
			t.Error(cerr)
		}
	}
	wantKind(t, err, fserr.Canceled)
	err = r.pusher.PushBlob(ctx, ocispec.Descriptor{Digest: digest.FromString("new"), Size: 3}, opener([]byte("new")))
	wantKind(t, err, fserr.Canceled)
}

func testPushTwice(t *testing.T, r *repo) {
	data := Bytes(14, 5000)
	desc := r.push("x", data)
	err := r.pusher.PushBlob(t.Context(), desc, func() (io.ReadCloser, error) {
		return nil, errors.New("must not be opened")
	})
	if err != nil {
		t.Errorf("the second push of a blob: %v", err)
	}
}

func testPushWrongContent(t *testing.T, r *repo) {
	data := Bytes(15, 5000)
	for _, tt := range []struct {
		name string
		data []byte
	}{
		{"other bytes", Bytes(16, 5000)},
		{"too short", data[:4999]},
		{"too long", append(bytes.Clone(data), 'x')},
	} {
		t.Run(tt.name, func(t *testing.T) {
			desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: 5000}
			wantKind(t, r.pusher.PushBlob(t.Context(), desc, opener(tt.data)), fserr.Corrupt)
			b, err := r.Backend.Blob(t.Context(), r.Ref("latest"), desc)
			if err == nil {
				err = b.ReadRange(t.Context(), 0, make([]byte, 1))
			}
			wantKind(t, err, fserr.NotExist)
		})
	}
	cause := errors.New("cannot open")
	err := r.pusher.PushBlob(t.Context(), ocispec.Descriptor{Digest: digest.FromString("y"), Size: 1}, func() (io.ReadCloser, error) { return nil, cause })
	if !errors.Is(err, cause) {
		t.Errorf("the cause is lost: %v", err)
	}
}
