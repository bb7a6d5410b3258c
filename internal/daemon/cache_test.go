package daemon_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/daemon"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/testreg"
)

func TestCache(t *testing.T) {
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, "hello", "world")}})
	ref, dir, ctx := reg.Ref("app", "v1"), t.TempDir(), t.Context()
	r := run(t, dir)
	if _, err := r.cat(ctx, "image/"+ref, "hello"); err != nil {
		t.Fatal(err)
	}
	pinned, err := r.client.PinImage(ctx, ref)
	if err != nil || pinned.Chunks != 1 || len(pinned.Manifests) != 1 {
		t.Fatalf("pin: %+v, %v", pinned, err)
	}
	list, err := r.client.CacheList(ctx, "")
	if err != nil || list.Chunks != 1 || list.Pinned != 1 || len(list.Images) != 1 {
		t.Fatalf("ls: %+v, %v", list, err)
	}
	if img := list.Images[0]; img.Ref != ref || !img.Pinned || img.Local != 1 || img.LocalBytes != 5 || img.Bytes != 5 || len(img.Layers) != 1 || img.Layers[0].IndexBytes == 0 {
		t.Errorf("ls: %+v", img)
	}
	zero := int64(0)
	if got, err := r.client.CollectCache(ctx, control.CacheCollect{Target: &zero, Unused: true}); err != nil || got.Chunks != 0 || got.Layers != 0 {
		t.Errorf("a pinned image was collected: %+v, %v", got, err)
	}
	if got, err := r.client.RebuildCache(ctx, nil); err != nil || got.Chunks != 1 || got.Before != 1 {
		t.Errorf("rebuild: %+v, %v", got, err)
	}
	if got, err := r.client.VerifyCache(ctx, nil); err != nil || got.Chunks != 1 || got.Bytes != 5 || got.Damaged != 0 {
		t.Errorf("verify: %+v, %v", got, err)
	}
	if _, err := daemon.VerifyOffline(ctx, r.cfg, nil); !fserr.Is(err, fserr.Busy) {
		t.Errorf("offline, under a daemon: %v", err)
	}
	negative := int64(-1)
	if _, err := r.client.CollectCache(ctx, control.CacheCollect{Target: &negative}); !fserr.Is(err, fserr.Invalid) {
		t.Errorf("a negative target: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	offlineCache(t, r)

	r = run(t, dir) // still pinned, but the chunk was damaged
	if list, err := r.client.CacheList(ctx, ref); err != nil || list.Pinned != 1 || list.Images[0].Local != 0 {
		t.Errorf("after a restart: %+v, %v", list, err)
	}
	if _, err := r.client.UnpinImage(ctx, ref); err != nil {
		t.Error(err)
	}
	if _, err := r.client.UnpinImage(ctx, ref); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("unpinned twice: %v", err)
	}
	got, err := r.client.CollectCache(ctx, control.CacheCollect{})
	if err != nil || got.Images != 1 || got.Layers != 1 || got.Files == 0 || got.FileBytes == 0 {
		t.Errorf("gc: %+v, %v", got, err)
	}
	if list, err := r.client.CacheList(ctx, ""); err != nil || len(list.Images) != 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
	if body, err := r.cat(ctx, "image/"+ref, "hello"); err != nil || body != "world" {
		t.Errorf("read anew: %q, %v", body, err)
	}
}

// offlineCache checks a store without a daemon, and then again after damage.
func offlineCache(t *testing.T, r *running) {
	t.Helper()
	ctx := t.Context()
	if got, err := daemon.RebuildOffline(ctx, r.cfg, nil); err != nil || got.Chunks != 1 {
		t.Errorf("rebuild offline: %+v, %v", got, err)
	}
	segments, err := filepath.Glob(filepath.Join(r.cfg.Root, "chunks", "segments", "*.seg"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	data, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	data[64+64+4] ^= 1 // in the only payload
	if err := os.WriteFile(segments[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := daemon.VerifyOffline(ctx, r.cfg, nil); err != nil || got.Damaged != 1 || len(got.Digests) != 1 {
		t.Errorf("verify offline: %+v, %v", got, err)
	}
	r.cfg.Root += "x"
	if _, err := daemon.VerifyOffline(ctx, r.cfg, nil); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("no store: %v", err)
	}
}
