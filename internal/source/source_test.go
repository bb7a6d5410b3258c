package source_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseReference(t *testing.T) {
	for _, tt := range []struct{ in, host, repository, tag, digest, out string }{
		{"alpine", "docker.io", "library/alpine", "latest", "", "docker.io/library/alpine:latest"},
		{"alpine:3.20", "docker.io", "library/alpine", "3.20", "", "docker.io/library/alpine:3.20"},
		{"me/app", "docker.io", "me/app", "latest", "", "docker.io/me/app:latest"},
		{"index.docker.io/alpine", "docker.io", "library/alpine", "latest", "", "docker.io/library/alpine:latest"},
		{"ghcr.io/a/b/c:v1", "ghcr.io", "a/b/c", "v1", "", "ghcr.io/a/b/c:v1"},
		{"localhost:5000/x", "localhost:5000", "x", "latest", "", "localhost:5000/x:latest"},
		{"localhost/x", "localhost", "x", "latest", "", "localhost/x:latest"},
		{"[::1]:5000/x", "[::1]:5000", "x", "latest", "", "[::1]:5000/x:latest"},
		{"alpine@" + someDigest, "docker.io", "library/alpine", "", someDigest, "docker.io/library/alpine@" + someDigest},
		{"alpine:3.20@" + someDigest, "docker.io", "library/alpine", "", someDigest, "docker.io/library/alpine@" + someDigest},
	} {
		ref, err := source.ParseReference(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		want := source.Reference{Host: tt.host, Repository: tt.repository, Tag: tt.tag, Digest: digest.Digest(tt.digest)}
		if ref != want || ref.String() != tt.out {
			t.Errorf("%s: %+v (%s), want %+v (%s)", tt.in, ref, ref, want, tt.out)
		}
	}
	for _, in := range []string{
		"", " ", "UPPER", "a b", "alpine:", "alpine@sha256:short", "alpine@md5:d41d8cd98f00b204e9800998ecf8427e", "-x/y", "a//b", "../x",
		"http://ghcr.io/x", "ghcr.io/", "x:" + strings.Repeat("t", 129), strings.Repeat("a/", 2000), strings.Repeat("a", 64) + "\x00",
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
	} {
		if ref, err := source.ParseReference(in); !fserr.Is(err, fserr.Invalid) {
			t.Errorf("%q: %+v, %v, want an error of kind invalid", in, ref, err)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"alpine", "ghcr.io/a/b:c", "localhost:5000/x@" + someDigest, "a:b@" + someDigest, "[::1]:1/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := source.ParseReference(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(ref.Host, "/?#@ ") || strings.ContainsAny(ref.Repository+ref.Target(), "?# \\%") || strings.Contains(ref.Name(), "..") {
			t.Errorf("%q gives %+v, which does not fit into an address", s, ref)
		}
		again, err := source.ParseReference(ref.String())
		if err != nil || again != ref {
			t.Errorf("%q gives %s, which gives %s, %v", s, ref, again, err)
		}
	})
}

func TestPushTargetName(t *testing.T) {
	ref := source.Reference{Host: "h.example", Repository: "x/y", Tag: "old"}
	d := digest.Digest(someDigest)
	other := digest.FromString("other")
	for _, tt := range []struct{ target, want string }{
		{"", someDigest}, {someDigest, someDigest}, {"v1", "v1"}, {"h.example/x/y:v2", "v2"}, {"h.example/x/y@" + someDigest, someDigest},
		{"h.example/x/y", "latest"},
	} {
		if got, err := source.PushTargetName(ref, tt.target, d); err != nil || got != tt.want {
			t.Errorf("%q: %q, %v", tt.target, got, err)
		}
	}
	for _, target := range []string{"a b", other.String(), "h.example/x/z:v1", "h.example/x/y@" + other.String()} {
		if got, err := source.PushTargetName(ref, target, d); !fserr.Is(err, fserr.Invalid) {
			t.Errorf("%q: %q, %v", target, got, err)
		}
	}
}

func TestVerified(t *testing.T) {
	data := []byte("some bytes of a blob")
	d, n := digest.FromBytes(data), int64(len(data))
	broken := errors.New("broken")
	for _, tt := range []struct {
		name   string
		r      io.Reader
		digest digest.Digest
		size   int64
		kind   fserr.Kind
	}{
		{"right", bytes.NewReader(data), d, n, 0},
		{"byte by byte", iotest.OneByteReader(bytes.NewReader(data)), d, n, 0},
		{"end with data", iotest.DataErrReader(bytes.NewReader(data)), d, n, 0},
		{"size unknown", bytes.NewReader(data), d, -1, 0},
		{"sha512", bytes.NewReader(data), digest.SHA512.FromBytes(data), n, 0},
		{"short", bytes.NewReader(data[1:]), d, n, fserr.Corrupt},
		{"empty", bytes.NewReader(nil), d, n, fserr.Corrupt},
		{"long", bytes.NewReader(append(bytes.Clone(data), 'x')), d, n, fserr.Corrupt},
		{"long, byte by byte", iotest.OneByteReader(bytes.NewReader(append(bytes.Clone(data), 'x'))), d, n, fserr.Corrupt},
		{"other bytes", strings.NewReader("SOME bytes of a blob"), d, n, fserr.Corrupt},
		{"other digest", bytes.NewReader(data), digest.FromString("x"), n, fserr.Corrupt},
		{"no digest", bytes.NewReader(data), "sha256:x", n, fserr.Invalid},
		{"read error", io.MultiReader(bytes.NewReader(data[:5]), iotest.ErrReader(broken)), d, n, fserr.Internal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := source.Verified(io.NopCloser(tt.r), tt.digest, tt.size)
			got, err := io.ReadAll(v)
			if fserr.KindOf(err) != tt.kind {
				t.Fatalf("error %v, want kind %v", err, tt.kind)
			}
			if err == nil && !bytes.Equal(got, data) {
				t.Error("wrong bytes")
			}
			if int64(len(got)) > n {
				t.Error("bytes beyond the size were given out")
			}
			if _, again := v.Read(make([]byte, 1)); err != nil && !errors.Is(again, err) {
				t.Errorf("the error did not stay: %v, then %v", err, again)
			}
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReadObject(t *testing.T) {
	data := []byte("an object")
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	open := func(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }
	if got, err := source.ReadObject(open(data), desc, 100); err != nil || !bytes.Equal(got, data) {
		t.Errorf("ReadObject = %q, %v", got, err)
	}
	if _, err := source.ReadObject(open(data), desc, 5); !fserr.Is(err, fserr.TooLarge) {
		t.Errorf("beyond the limit: %v", err)
	}
	for _, b := range [][]byte{data[1:], append(bytes.Clone(data), 'x'), []byte("AN OBJECT"), nil} {
		if _, err := source.ReadObject(open(b), desc, 100); !fserr.Is(err, fserr.Corrupt) {
			t.Errorf("%q: %v", b, err)
		}
	}
}

func TestCheckRange(t *testing.T) {
	const top = 1<<63 - 1
	for _, tt := range []struct {
		size, off, n int64
		ok           bool
	}{
		{10, 0, 10, true}, {10, 10, 0, true}, {0, 0, 0, true}, {10, 3, 7, true}, {top, top, 0, true}, {top, 1, top - 1, true},
		{10, 0, 11, false}, {10, 11, 0, false}, {10, -1, 1, false}, {10, 5, -1, false}, {10, 5, top, false}, {top, top, top, false},
	} {
		if err := source.CheckRange("blob", tt.size, tt.off, tt.n); (err == nil) != tt.ok {
			t.Errorf("CheckRange(%d, %d, %d) = %v", tt.size, tt.off, tt.n, err)
		}
	}
}

// named is a backend that only tells its name.
type named struct{ source.Backend }

func (n named) Resolve(context.Context, string, ocispec.Platform) (*source.Image, error) {
	return nil, fmt.Errorf("%w", errNamed)
}

var errNamed = errors.New("asked")

func TestMux(t *testing.T) {
	for _, tt := range []struct {
		ref string
		mux source.Mux
		err bool
	}{
		{"alpine", source.Mux{Registry: named{}}, true},
		{"oci:/x", source.Mux{Layout: named{}}, true},
		{"oci-archive:/x", source.Mux{Layout: named{}}, true},
		{"alpine", source.Mux{Layout: named{}}, false},
		{"oci:/x", source.Mux{Registry: named{}}, false},
	} {
		_, err := tt.mux.Resolve(t.Context(), tt.ref, ocispec.Platform{})
		if errors.Is(err, errNamed) != tt.err {
			t.Errorf("%s: %v", tt.ref, err)
		}
		if !tt.err && !fserr.Is(err, fserr.Unsupported) {
			t.Errorf("%s: %v, want kind unsupported", tt.ref, err)
		}
	}
	var empty source.Mux
	_, blobErr := empty.Blob(t.Context(), "x", ocispec.Descriptor{})
	_, _, fetchErr := empty.FetchManifest(t.Context(), "x")
	_, pushErr := empty.Pusher(t.Context(), "x")
	for _, err := range []error{blobErr, fetchErr, pushErr} {
		if !fserr.Is(err, fserr.Unsupported) {
			t.Errorf("empty: %v", err)
		}
	}
}

func TestCounter(t *testing.T) {
	var c source.Counter
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 400 {
				h := c.Host(fmt.Sprintf("host-%d", (i*400+j)%400))
				h.Requests.Add(1)
				h.Bytes.Add(10)
			}
		})
	}
	wg.Wait()
	got := c.Snapshot()
	if len(got) > 256 || got[source.OtherHosts].Requests == 0 {
		t.Errorf("%d hosts, others %+v", len(got), got[source.OtherHosts])
	}
	var sum source.HostStats
	for _, s := range got {
		sum.Requests += s.Requests
		sum.Bytes += s.Bytes
	}
	if sum.Requests != 3200 || sum.Bytes != 32_000 {
		t.Errorf("sum %+v", sum)
	}
}
