package optimize

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// Command is what is run in the image. The zero value is what the image's config
// says.
type Command struct {
	Args       []string // in the place of the image's Cmd
	Entrypoint []string // in the place of the image's; not nil and empty: none
	Env        []string // NAME=VALUE, besides the image's
	User       string   // name or number, with :group
	WorkDir    string
	Mounts     []Mount
	HostNet    bool // the host's network instead of a loopback interface alone
}

// Mount is a directory or file of the host that the command sees.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// ParseMount reads SOURCE:TARGET[:ro|:rw].
func ParseMount(text string) (Mount, error) {
	parts := strings.Split(text, ":")
	m := Mount{}
	switch {
	case len(parts) == 3 && (parts[2] == "ro" || parts[2] == "rw"):
		m.ReadOnly = parts[2] == "ro"
	case len(parts) != 2:
		return m, fmt.Errorf("mount %q is not SOURCE:TARGET[:ro]", text)
	}
	m.Source, m.Target = parts[0], parts[1]
	if !filepath.IsAbs(m.Source) || !filepath.IsAbs(m.Target) {
		return m, fmt.Errorf("mount %q: both paths must be absolute", text)
	}
	return m, nil
}

// configOf is the config of an image, as package oci reads it.
type configOf struct {
	content.Store // nothing else is asked of it
	img           *source.Image
}

// Config implements oci.Image.
func (c configOf) Config(context.Context) (ocispec.Descriptor, error) {
	desc := c.img.Manifest.Config
	desc.MediaType, desc.Size = ocispec.MediaTypeImageConfig, int64(len(c.img.ConfigBytes))
	return desc, nil
}

// ContentStore implements oci.Image.
func (c configOf) ContentStore() content.Store { return c }

// ReaderAt implements content.Provider.
func (c configOf) ReaderAt(context.Context, ocispec.Descriptor) (content.ReaderAt, error) {
	return configReader{bytes.NewReader(c.img.ConfigBytes)}, nil
}

type configReader struct{ *bytes.Reader }

// Close implements content.ReaderAt.
func (configReader) Close() error { return nil }

// specVersion is the version of the runtime specification that a container's keeps to.
const specVersion = "1.0.2"

// newSpec makes the specification of a container on root, where the image's files
// are: users and groups are looked up there.
func newSpec(ctx context.Context, id, root string, img *source.Image, c Command) (*oci.Spec, error) {
	ctx = namespaces.WithNamespace(ctx, "nineply")
	opts := []oci.SpecOpts{
		oci.WithRootFSPath(root),
		oci.WithImageConfigArgs(configOf{img: img}, c.Args),
		oci.WithEnv(c.Env),
		entrypoint(img, c),
		oci.WithMounts(mounts(c)),
		oci.WithHostname("nineply"),
		oci.WithCgroup("/" + id),
	}
	if c.User != "" {
		opts = append(opts, oci.WithUser(c.User), additionalGIDs)
	}
	if c.WorkDir != "" {
		opts = append(opts, oci.WithProcessCwd(c.WorkDir))
	}
	if c.HostNet {
		opts = append(opts, oci.WithHostNamespace(specs.NetworkNamespace))
	}
	// It has nothing that is newer, and older runtimes refuse newer versions.
	opts = append(opts, func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		s.Version = specVersion
		return nil
	})
	spec, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: id}, opts...)
	if err != nil {
		return nil, fserr.New(fserr.Invalid, "prepare container of", img.Ref, err)
	}
	if len(spec.Process.Args) == 0 || spec.Process.Args[0] == "" {
		return nil, fserr.Newf(fserr.Invalid, "run", img.Ref, "the image names no command: give one behind --")
	}
	return spec, nil
}

// entrypoint puts another entry point in the place of the image's.
func entrypoint(img *source.Image, c Command) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		if c.Entrypoint == nil {
			return nil
		}
		args := c.Args
		if args == nil && len(c.Entrypoint) == 0 {
			args = img.Config.Config.Cmd
		}
		s.Process.Args = append(append([]string{}, c.Entrypoint...), args...)
		return nil
	}
}

// additionalGIDs looks up the groups of the user chosen.
func additionalGIDs(ctx context.Context, client oci.Client, c *containers.Container, s *oci.Spec) error {
	return oci.WithAdditionalGIDs(fmt.Sprint(s.Process.User.UID))(ctx, client, c, s)
}

func mounts(c Command) []specs.Mount {
	var list []specs.Mount
	bind := func(src, dst, mode string) {
		list = append(list, specs.Mount{Type: "bind", Source: src, Destination: dst, Options: []string{"rbind", mode}})
	}
	if c.HostNet {
		for _, file := range []string{"/etc/resolv.conf", "/etc/hosts"} {
			if _, err := os.Stat(file); err == nil {
				bind(file, file, "ro")
			}
		}
	}
	for _, m := range c.Mounts {
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		bind(m.Source, m.Target, mode)
	}
	return list
}
