package snapshotter_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/nineply/nineply/snapshotter"
)

// TestRawMounts: lists of mounts that containerd's mount manager understands, and
// no mount on the host.
func TestRawMounts(t *testing.T) {
	needRoot(t)
	r := newRig(t, func(o *snapshotter.Options) {
		o.Raw = &snapshotter.RawMounts{Socket: "/run/nineply/9p.sock", MSize: 131096}
	})
	layers := r.b.addImage("app", 2)
	top := r.pull(layers)
	m := r.prepare("ns/5/c", top)
	has := func(i int, options ...string) {
		t.Helper()
		for _, want := range options {
			if !slices.ContainsFunc(m[i].Options, func(o string) bool { return o == want || strings.HasSuffix(want, "=") && strings.HasPrefix(o, want) }) {
				t.Errorf("mount %d has no %q: %+v", i, want, m[i])
			}
		}
	}
	if len(m) != 2 || m[0].Type != "9p" || m[0].Source != "/run/nineply/9p.sock" || m[1].Type != "format/overlay" {
		t.Fatalf("%+v", m)
	}
	has(0, "ro", "trans=unix", "version=9p2000.L", "msize=131096", "aname=chain/"+layers[1].chain)
	has(1, "lowerdir={{ mount 0 }}", "upperdir=", "workdir=")
	again, err := r.Mounts(r.ctx, "ns/5/c")
	if err != nil || len(again) != 2 || !slices.Equal(again[1].Options, m[1].Options) {
		t.Errorf("%+v, %v", again, err)
	}
	if m, err = r.View(r.ctx, "ns/6/v", top); err != nil || len(m) != 1 || m[0].Type != "9p" {
		t.Errorf("view: %+v, %v", m, err)
	}
	if m, err = r.Prepare(r.ctx, "ns/7/u", top, mapping(mapA)); err != nil || len(m) != 2 {
		t.Fatalf("user namespace: %+v, %v", m, err)
	}
	has(0, "aname=chain/"+layers[1].chain+"?uidmap="+mapA+"&gidmap="+mapA)
	wantOwner(t, strings.TrimPrefix(m[1].Options[1], "upperdir="), 100000)
	if _, err := r.Prepare(r.ctx, "ns/8/u", top, mapping("0:1:1,1:5:1")); !errdefs.IsNotImplemented(err) {
		t.Errorf("several ranges: %v", err)
	}
	r.commit("ns/9/built", "ns/5/c")
	if m = r.prepare("ns/9/c", "ns/9/built"); len(m) != 2 || !slices.ContainsFunc(m[1].Options, func(o string) bool {
		return strings.HasPrefix(o, "lowerdir=") && strings.HasSuffix(o, ":{{ mount 0 }}")
	}) {
		t.Errorf("over a local layer: %+v", m)
	}
	if n := r.b.calls("Mount"); n != 0 {
		t.Errorf("the backend was asked %d times to mount", n)
	}
	r.remove("ns/6/v", "ns/7/u", "ns/9/c", "ns/9/built")
	r.removeImage(layers)
	r.cleanup()
	r.wantState(state{})
}

func TestRawMountsAreChecked(t *testing.T) {
	for _, raw := range []snapshotter.RawMounts{{Socket: "9p.sock", MSize: 8192}, {Socket: "/a,b", MSize: 8192}, {Socket: "/a", MSize: 100}} {
		_, err := snapshotter.New(t.Context(), snapshotter.Options{Root: t.TempDir(), Backend: newFakeBackend(t), Raw: &raw})
		if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%+v: %v", raw, err)
		}
	}
}
