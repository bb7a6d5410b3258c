package optimize

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nineply/nineply/internal/source"
)

// imageWith is an image whose config says how to run it.
func imageWith(t *testing.T, c ocispec.ImageConfig) *source.Image {
	t.Helper()
	img := &source.Image{Ref: "example.com/app:1", Config: ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Config: c}}
	var err error
	if img.ConfigBytes, err = json.Marshal(img.Config); err != nil {
		t.Fatal(err)
	}
	img.Manifest.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(img.ConfigBytes)}
	return img
}

// rootWith is a root directory with users and groups.
func rootWith(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:::\napp:x:100:101:::\n", "etc/group": "root:x:0:\napp:x:101:\nextra:x:7:app\nother:x:8:root\n",
	} {
		if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestCommandOfAnImage(t *testing.T) {
	plain := ocispec.ImageConfig{Cmd: []string{"cmd"}}
	both := ocispec.ImageConfig{Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}}
	for name, tt := range map[string]struct {
		config  ocispec.ImageConfig
		command Command
		want    []string
	}{
		"cmd":                           {plain, Command{}, []string{"cmd"}},
		"both":                          {both, Command{}, []string{"entry", "cmd"}},
		"arguments":                     {both, Command{Args: []string{"a", "b"}}, []string{"entry", "a", "b"}},
		"another entry point":           {both, Command{Entrypoint: []string{"x", "y"}}, []string{"x", "y"}},
		"another, with arguments":       {both, Command{Entrypoint: []string{"x"}, Args: []string{"a"}}, []string{"x", "a"}},
		"no entry point":                {both, Command{Entrypoint: []string{}}, []string{"cmd"}},
		"no entry point, but arguments": {both, Command{Entrypoint: []string{}, Args: []string{"a"}}, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			spec, err := newSpec(t.Context(), "id", rootWith(t), imageWith(t, tt.config), tt.command)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, spec.Process.Args); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := newSpec(t.Context(), "id", rootWith(t), imageWith(t, ocispec.ImageConfig{}), Command{}); err == nil || !strings.Contains(err.Error(), "behind --") {
		t.Errorf("an image without a command: %v", err)
	}
}

func TestSpecOfAnImage(t *testing.T) {
	img := imageWith(t, ocispec.ImageConfig{Cmd: []string{"x"}, Env: []string{"A=image", "B=image"}, WorkingDir: "/srv", User: "app"})
	spec, err := newSpec(t.Context(), "id", rootWith(t), img, Command{})
	if err != nil {
		t.Fatal(err)
	}
	if p := spec.Process; p.User.UID != 100 || p.User.GID != 101 || !cmp.Equal(p.User.AdditionalGids, []uint32{101, 7}) || p.Cwd != "/srv" || p.Terminal {
		t.Errorf("%+v", p)
	}
	if spec.Linux.CgroupsPath != "/id" || !hasNamespace(spec, specs.NetworkNamespace) || !hasNamespace(spec, specs.PIDNamespace) {
		t.Errorf("%+v", spec.Linux)
	}
	command := Command{
		Env: []string{"B=ours", "C=ours"}, User: "0:extra", WorkDir: "/", HostNet: true,
		Mounts: []Mount{{Source: "/host", Target: "/guest", ReadOnly: true}},
	}
	if spec, err = newSpec(t.Context(), "id", rootWith(t), img, command); err != nil {
		t.Fatal(err)
	}
	if p := spec.Process; p.User.UID != 0 || p.User.GID != 7 || p.Cwd != "/" || !cmp.Equal(p.Env, []string{"A=image", "B=ours", "C=ours"}) {
		t.Errorf("%+v", p)
	}
	last := spec.Mounts[len(spec.Mounts)-1]
	if diff := cmp.Diff(specs.Mount{Type: "bind", Source: "/host", Destination: "/guest", Options: []string{"rbind", "ro"}}, last); diff != "" {
		t.Error(diff)
	}
	if hasNamespace(spec, specs.NetworkNamespace) {
		t.Error("the host's network is not the container's")
	}
	if _, err := newSpec(t.Context(), "id", rootWith(t), img, Command{User: "nobody"}); err == nil {
		t.Error("a user that the image does not have")
	}
}

func hasNamespace(spec *specs.Spec, kind specs.LinuxNamespaceType) bool {
	for _, n := range spec.Linux.Namespaces {
		if n.Type == kind {
			return true
		}
	}
	return false
}

// TestSweep: only what nobody holds any more is taken away.
func TestSweep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("what is swept are mounts, which need root")
	}
	parent := t.TempDir()
	held, remove, err := workplace(parent)
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, name := range []string{"dead", "young", "foreign"} {
		dir := filepath.Join(parent, "nineply-optimize-"+name)
		dirs = append(dirs, dir)
		if err := os.MkdirAll(filepath.Join(dir, runDir), 0o755); err != nil {
			t.Fatal(err)
		}
		if name == "young" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, lockName), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dirs[2], 1, 1); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dirs[2], filepath.Join(parent, "nineply-optimize-link")); err != nil {
		t.Fatal(err)
	}
	if err := sweep(t.Context(), parent, "/no/such/runtime"); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]bool{held: true, dirs[0]: false, dirs[1]: true, dirs[2]: true, parent + "/nineply-optimize-link": true} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(held); !os.IsNotExist(err) {
		t.Errorf("%s: %v", held, err)
	}
}
