package sourcetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// Harness is a backend with one empty repository.
type Harness struct {
	Backend source.Backend
	// Ref makes a reference to a tag or, if target has a colon, to a digest in
	// the repository.
	Ref func(target string) string
	// Strict: the backend itself refuses to take manifests that are no images.
	Strict bool
}

// Run runs the suite; open is called for each part of it.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, part := range []struct {
		name string
		run  func(*testing.T, *repo)
	}{
		{"Resolve", testResolve},
		{"Platforms", testPlatforms},
		{"NestedIndex", testNestedIndex},
		{"HostileManifests", testHostileManifests},
		{"Ranges", testRanges},
		{"ConcurrentRanges", testConcurrentRanges},
		{"Stream", testStream},
		{"UnknownSize", testUnknownSize},
		{"Missing", testMissing},
		{"WrongSize", testWrongSize},
		{"Verified", testVerified},
		{"Canceled", testCanceled},
		{"PushTwice", testPushTwice},
		{"PushWrongContent", testPushWrongContent},
		{"PushManifest", testPushManifest},
		{"MalformedReferences", testMalformedReferences},
	} {
		t.Run(part.name, func(t *testing.T) {
			h := open(t)
			r := &repo{Harness: h, t: t}
			p, err := h.Backend.Pusher(t.Context(), h.Ref("latest"))
			if err != nil {
				t.Fatalf("Pusher: %v", err)
			}
			r.pusher = p
			part.run(t, r)
		})
	}
}

// repo is the repository under test.
type repo struct {
	Harness
	t      *testing.T
	pusher source.Pusher
}

// Bytes makes n bytes that no other seed gives.
func Bytes(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func opener(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

func (r *repo) push(mediaType string, data []byte) ocispec.Descriptor {
	r.t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := r.pusher.PushBlob(r.t.Context(), desc, opener(data)); err != nil {
		r.t.Fatalf("PushBlob: %v", err)
	}
	return desc
}

func (r *repo) encode(v any) []byte {
	r.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		r.t.Fatal(err)
	}
	return data
}

func (r *repo) pushJSON(target, mediaType string, v any) ocispec.Descriptor {
	r.t.Helper()
	desc, err := r.pusher.PushManifest(r.t.Context(), target, mediaType, r.encode(v))
	if err != nil {
		r.t.Fatalf("PushManifest(%q): %v", target, err)
	}
	return desc
}

func (r *repo) manifest(platform ocispec.Platform, layers ...[]byte) ocispec.Manifest {
	r.t.Helper()
	config := ocispec.Image{Platform: platform, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	for _, l := range layers {
		desc := r.push(ocispec.MediaTypeImageLayerGzip, l)
		m.Layers = append(m.Layers, desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, desc.Digest)
	}
	m.Config = r.push(ocispec.MediaTypeImageConfig, r.encode(config))
	return m
}

// image pushes an image and gives the descriptor for an index.
func (r *repo) image(target string, platform ocispec.Platform, layers ...[]byte) ocispec.Descriptor {
	r.t.Helper()
	desc := r.pushJSON(target, ocispec.MediaTypeImageManifest, r.manifest(platform, layers...))
	desc.Platform = &platform
	return desc
}

func index(entries ...ocispec.Descriptor) ocispec.Index {
	return ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries}
}

func (r *repo) blob(desc ocispec.Descriptor) source.Blob {
	r.t.Helper()
	b, err := r.Backend.Blob(r.t.Context(), r.Ref("latest"), desc)
	if err != nil {
		r.t.Fatalf("Blob: %v", err)
	}
	return b
}

// wantKind fails unless err is of the kind and names something.
func wantKind(t *testing.T, err error, kind fserr.Kind) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want kind %v", kind)
	}
	if got := fserr.KindOf(err); got != kind {
		t.Fatalf("kind %v, want %v: %v", got, kind, err)
	}
}

func linux(arch string) ocispec.Platform { return ocispec.Platform{OS: "linux", Architecture: arch} }

func readAll(ctx context.Context, b source.Blob, off int64) ([]byte, error) {
	rc, err := b.Stream(ctx, off)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(rc)
	return data, errors.Join(err, rc.Close())
}
