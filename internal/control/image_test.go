package control_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
)

func (r *recorder) Describe(_ context.Context, name string) (control.Image, error) {
	r.calls = append(r.calls, "describe "+name)
	return control.Image{Ref: name, Layers: []control.ImageLayer{{Digest: "sha256:l", Size: 9}}}, r.err
}

func (r *recorder) ReadBlob(_ context.Context, b control.BlobRead) ([]byte, error) {
	r.calls = append(r.calls, b)
	return []byte{0, 1, 255}[:min(b.Size, 3)], r.err
}

func TestImageCallsArrive(t *testing.T) {
	r := &recorder{}
	c := serve(t, r)
	if im, err := c.Describe(t.Context(), "a/b:c&d"); err != nil || im.Ref != "a/b:c&d" || im.Layers[0].Size != 9 {
		t.Errorf("%+v, %v", im, err)
	}
	in := control.BlobRead{Manifest: "sha256:m", Layer: "sha256:l", Offset: 7, Size: 5}
	if data, err := c.ReadBlob(t.Context(), in); err != nil || string(data) != "\x00\x01\xff" {
		t.Errorf("%v, %v", data, err)
	}
	if _, err := c.ReadBlob(t.Context(), control.BlobRead{Size: control.MaxBlobRead + 1}); !fserr.Is(err, fserr.Invalid) {
		t.Errorf("too large a read: %v", err)
	}
	if diff := cmp.Diff([]any{"describe a/b:c&d", in}, r.calls); diff != "" {
		t.Errorf("calls that arrived:\n%s", diff)
	}
}
