package control_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
)

func (r *recorder) CacheList(_ context.Context, name string) (control.CacheList, error) {
	r.calls = append(r.calls, "ls "+name)
	return control.CacheList{Bytes: 4, Images: []control.CacheImage{{Ref: name, Pinned: true}}}, r.err
}

func (r *recorder) CollectCache(_ context.Context, c control.CacheCollect) (control.CacheCollected, error) {
	r.calls = append(r.calls, *c.Target, c.Unused)
	return control.CacheCollected{Layers: 2, FreedBytes: 8}, r.err
}

func (r *recorder) VerifyCache(_ context.Context, progress func(control.CacheProgress)) (control.CacheVerified, error) {
	progress(control.CacheProgress{Done: 1, All: 3})
	progress(control.CacheProgress{Done: 2, All: 3})
	return control.CacheVerified{Chunks: 3, Damaged: 1, Digests: []string{"sha256:x"}}, r.err
}

func (r *recorder) RebuildCache(_ context.Context, progress func(control.CacheProgress)) (control.CacheRebuilt, error) {
	progress(control.CacheProgress{Done: 1, All: 1})
	return control.CacheRebuilt{Segments: 1, Before: 2, Chunks: 3}, r.err
}

func (r *recorder) PinImage(_ context.Context, name string) (control.CachePinned, error) {
	r.calls = append(r.calls, "pin "+name)
	return control.CachePinned{Manifests: []string{"sha256:m"}, Chunks: 9}, r.err
}

func (r *recorder) UnpinImage(_ context.Context, name string) (control.CachePinned, error) {
	r.calls = append(r.calls, "unpin "+name)
	return control.CachePinned{Manifests: []string{"sha256:m"}}, r.err
}

func TestCacheCallsArrive(t *testing.T) {
	r := &recorder{}
	c := serve(t, r)
	ctx := t.Context()
	if got, err := c.CacheList(ctx, "a/b:c&d"); err != nil || got.Bytes != 4 || !got.Images[0].Pinned {
		t.Errorf("CacheList: %+v, %v", got, err)
	}
	target := int64(5)
	if got, err := c.CollectCache(ctx, control.CacheCollect{Target: &target, Unused: true}); err != nil || got.FreedBytes != 8 {
		t.Errorf("CollectCache: %+v, %v", got, err)
	}
	if got, err := c.PinImage(ctx, "x&y"); err != nil || got.Chunks != 9 {
		t.Errorf("PinImage: %+v, %v", got, err)
	}
	if got, err := c.UnpinImage(ctx, "x&y"); err != nil || len(got.Manifests) != 1 {
		t.Errorf("UnpinImage: %+v, %v", got, err)
	}
	if diff := cmp.Diff([]any{"ls a/b:c&d", target, true, "pin x&y", "unpin x&y"}, r.calls); diff != "" {
		t.Errorf("calls that arrived:\n%s", diff)
	}
}

func TestProgressArrives(t *testing.T) {
	r := &recorder{}
	c := serve(t, r)
	var seen []int64
	progress := func(p control.CacheProgress) { seen = append(seen, p.Done) }
	if got, err := c.VerifyCache(t.Context(), progress); err != nil || got.Damaged != 1 || got.Digests[0] != "sha256:x" {
		t.Errorf("VerifyCache: %+v, %v", got, err)
	}
	if got, err := c.RebuildCache(t.Context(), nil); err != nil || got.Chunks != 3 {
		t.Errorf("RebuildCache: %+v, %v", got, err)
	}
	if diff := cmp.Diff([]int64{1, 2}, seen); diff != "" {
		t.Errorf("progress:\n%s", diff)
	}
	r.err = fserr.Newf(fserr.Closed, "verify", "store", "because")
	if _, err := c.VerifyCache(t.Context(), nil); fserr.KindOf(err) != fserr.Closed {
		t.Errorf("an error came back as %v", err)
	}
}

// TestLongAnswerBreaksOff has the daemon die in the middle of an answer.
func TestLongAnswerBreaksOff(t *testing.T) {
	for name, body := range map[string]string{"nothing": "", "half a line": `{"progress":{"done`, "no result": `{"progress":{"done":1,"all":2,"bytes":3}}` + "\n"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		c := control.NewClientTo(srv.Listener.Addr())
		if _, err := c.VerifyCache(t.Context(), nil); !fserr.Is(err, fserr.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
		srv.Close()
	}
}
