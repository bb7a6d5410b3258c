package control_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
)

func (r *recorder) CheckImage(_ context.Context, c control.ImageCheck) error {
	r.calls = append(r.calls, c)
	return r.err
}

func TestChecksArrive(t *testing.T) {
	r := &recorder{}
	c := serve(t, r)
	in := control.ImageCheck{Ref: "a/b:c&d", Digest: "sha256:x"}
	if err := c.CheckImage(t.Context(), in); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]any{in}, r.calls); diff != "" {
		t.Errorf("calls that arrived:\n%s", diff)
	}
	r.err = fserr.Newf(fserr.Corrupt, "serve", "layer", "poisoned")
	if err := c.CheckImage(t.Context(), in); !fserr.Is(err, fserr.Corrupt) {
		t.Errorf("an error came back as %v", err)
	}
}
