package doctor_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/internal/doctor"
)

func TestParseRelease(t *testing.T) {
	for in, want := range map[string]doctor.Release{
		"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1": {Major: 1, Minor: 6},
		"containerd github.com/containerd/containerd/v2 v2.4.2 0123456789abcdef":      {Major: 2, Minor: 4},
		"containerd containerd.io v1.7.27 05044ec0a9a7":                               {Major: 1, Minor: 7},
	} {
		if got, err := doctor.ParseRelease(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	if got, err := doctor.ParseRelease("containerd unknown"); err == nil {
		t.Errorf("read %v", got)
	}
}

// TestComplete compares with golden files what each version's configuration
// becomes, and demands that nothing is left to do then.
func TestComplete(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the golden files name amd64")
	}
	const existing = "version = 2\nroot = '/data/containerd'\n[plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = 'pause:3'\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\nsnapshotter = 'overlayfs'\ndisable_snapshot_annotations = true\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n"
	for _, tt := range []struct {
		golden, text string
		reg          doctor.Registration
	}{
		{"1.6", "", doctor.Registration{Release: doctor.Release{Major: 1, Minor: 6}, Name: "nineply", CRI: true}},
		{"1.7", "", doctor.Registration{Release: doctor.Release{Major: 1, Minor: 7}, Name: "nineply", CRI: true}},
		{"1.7-existing", existing, doctor.Registration{Release: doctor.Release{Major: 1, Minor: 7}, Name: "nineply", CRI: true}},
		{"2.0", "", doctor.Registration{Release: doctor.Release{Major: 2, Minor: 0}, Name: "nineply", CRI: true}},
		{"2.4", "", doctor.Registration{Release: doctor.Release{Major: 2, Minor: 4}, Name: "nineply", CRI: true}},
		{"2.4-existing", existing, doctor.Registration{Release: doctor.Release{Major: 2, Minor: 4}, Name: "nineply", CRI: true}},
		{"2.4-stargz", "", doctor.Registration{Release: doctor.Release{Major: 2, Minor: 4}, Name: "stargz"}},
		{"2.4-rebase", "version = 3\n[proxy_plugins.nineply]\ncapabilities = ['rebase', 'other']\n", doctor.Registration{Release: doctor.Release{Major: 2, Minor: 4}, Name: "nineply"}},
	} {
		t.Run(tt.golden, func(t *testing.T) {
			tt.reg.Address, tt.reg.Root = "/run/nineply/snapshotter.sock", "/var/lib/nineply"
			got, changes, err := tt.reg.Complete([]byte(tt.text))
			if err != nil || len(changes) == 0 {
				t.Fatalf("changes %q, %v", changes, err)
			}
			path := filepath.Join("testdata", "containerd-"+tt.golden+".toml")
			if os.Getenv("UPDATE_GOLDEN") != "" {
				write(t, path, string(got))
			}
			want, err := os.ReadFile(path)
			if diff := cmp.Diff(string(want), string(got)); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			again, changes, err := tt.reg.Complete(got)
			if err != nil || len(changes) > 0 || string(again) != string(got) {
				t.Errorf("a second time: %q, %v", changes, err)
			}
		})
	}
}

func TestCompleteRefuses(t *testing.T) {
	reg := doctor.Registration{Release: doctor.Release{Major: 1, Minor: 7}, Name: "nineply", Address: "/s", Root: "/r", CRI: true}
	for _, text := range []string{"root = '/x'", "version = 1", "version = 'x'", "version = ", "version = 2\nproxy_plugins = 1", "version = 2\n[plugins]\n'io.containerd.grpc.v1.cri' = 5"} {
		if out, _, err := reg.Complete([]byte(text)); !errors.Is(err, doctor.ErrConfig) {
			t.Errorf("%q became %q, %v", text, out, err)
		}
	}
}

// TestWriteContainerd: a file is completed once, keeps its mode, and what was there
// is kept beside it.
func TestWriteContainerd(t *testing.T) {
	o := machine(t, "", map[string]string{"containerd": "containerd github.com/containerd/containerd/v2 v2.4.2 x"})
	write(t, o.ContainerdConfig, "version = 3 # mine\n")
	if err := os.Chmod(o.ContainerdConfig, 0o640); err != nil {
		t.Fatal(err)
	}
	check := func() doctor.Finding {
		t.Helper()
		return doctor.CheckContainerd(t.Context(), o, "nineply", true)
	}
	if f := check(); f.Level != doctor.Warn || !strings.Contains(f.Fix, "--write") {
		t.Errorf("before: %+v", f)
	}
	f := doctor.WriteContainerd(t.Context(), o, "nineply", true)
	if f.Level != doctor.OK || !strings.Contains(f.Fix, "restart containerd") {
		t.Errorf("write: %+v", f)
	}
	if f := check(); f.Level != doctor.OK {
		t.Errorf("after: %+v", f)
	}
	if old, err := os.ReadFile(o.ContainerdConfig + ".before-nineply"); err != nil || string(old) != "version = 3 # mine\n" {
		t.Errorf("kept %q, %v", old, err)
	}
	if fi, err := os.Stat(o.ContainerdConfig); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", fi, err)
	}
	if f := doctor.WriteContainerd(t.Context(), o, "nineply", true); f.Level != doctor.OK || f.Fix != "" {
		t.Errorf("write again: %+v", f)
	}
}
