package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/platforms"
	"github.com/nineply/nineply/internal/daemon"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/containerdstore"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// containerdFlags say which containerd "containerd:" references mean.
type containerdFlags struct{ address, namespace string }

func (f *containerdFlags) add(cmd *cobra.Command) {
	pick := func(env, def string) string {
		if s := os.Getenv(env); s != "" {
			return s
		}
		return def
	}
	cmd.Flags().StringVar(&f.address, "containerd-address", pick("CONTAINERD_ADDRESS", containerdstore.DefaultAddress), "socket of the containerd that containerd: references mean")
	cmd.Flags().StringVar(&f.namespace, "containerd-namespace", pick("CONTAINERD_NAMESPACE", containerdstore.DefaultNamespace), "namespace of containerd: references that name none")
}

// allSources are the places that images come from and go to, for the commands
// that need no daemon.
type allSources struct {
	*daemon.SourceSet
	store *containerdstore.Store
}

func (a *app) sources(f containerdFlags) (*allSources, error) {
	c, err := a.config()
	if err != nil {
		return nil, err
	}
	s := &allSources{SourceSet: daemon.Sources(c), store: containerdstore.New(containerdstore.Options{Address: f.address, Namespace: f.namespace})}
	s.Containerd = s.store
	return s, nil
}

// Close drops connections.
func (s *allSources) Close() error { return errors.Join(s.SourceSet.Close(), s.store.Close()) }

// selectionFlags say which platforms of an image are meant.
type selectionFlags struct {
	platforms []string
	all       bool
}

func (f *selectionFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.platforms, "platform", nil, "os/arch[/variant] of a multi-platform image; can be given several times (default: this machine's)")
	cmd.Flags().BoolVar(&f.all, "all-platforms", false, "all platforms of a multi-platform image")
}

func (f *selectionFlags) read() (source.Selection, error) {
	sel := source.Selection{All: f.all}
	if f.all && len(f.platforms) > 0 {
		return sel, usageError{errors.New("--platform and --all-platforms exclude each other")}
	}
	for _, text := range f.platforms {
		p, err := platform(text)
		if err != nil {
			return sel, err
		}
		sel.Platforms = append(sel.Platforms, p)
	}
	return sel, nil
}

// platform reads a --platform flag; "" is this machine's.
func platform(text string) (ocispec.Platform, error) {
	if text == "" {
		return platforms.DefaultSpec(), nil
	}
	p, err := platforms.Parse(text)
	if err != nil {
		return p, usageError{fmt.Errorf("--platform: %w", err)}
	}
	return p, nil
}

// isTerminal reports whether somebody watches what is written.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
