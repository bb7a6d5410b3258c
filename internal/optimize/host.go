package optimize

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/daemon"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

const (
	// hostStart is how long a daemon may take until it answers.
	hostStart = 30 * time.Second
	// pollTime is how often it is asked meanwhile.
	pollTime = 10 * time.Millisecond
)

// host is a daemon: the one that runs, or one within this process.
type host struct {
	client  *control.Client
	ninep   string // address
	private bool
	stop    func() error
}

// running gives the daemon that runs, or nil if none answers.
func running(ctx context.Context, c config.Config) (*host, error) {
	_, socket, err := config.SplitAddress(c.Listen.Control)
	if err != nil {
		return nil, err
	}
	client := control.NewClient(socket)
	_, err = client.Status(ctx)
	if err != nil {
		client.Close()
		if ctx.Err() == nil {
			err = nil // whatever it is, it is no daemon to be used
		}
		return nil, err
	}
	return &host{client: client, ninep: c.Listen.NineP[0], stop: func() error { client.Close(); return nil }}, nil
}

// privately starts a daemon with its files below dir. It reaches registries as c
// says, records, and fetches nothing that nobody asked for.
func privately(ctx context.Context, c config.Config, dir string, log *zap.Logger) (*host, error) {
	own := config.Default(filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	own.Registry, own.Cache, own.Fetch, own.Index = c.Registry, c.Cache, c.Fetch, c.Index
	own.Snapshotter.MountMode = c.Snapshotter.MountMode
	own.Listen.Snapshotter = ""
	own.Fetch.Prefetch, own.Fetch.Background = false, false
	own.Profiles = config.Profiles{Record: true}
	_, socket, err := config.SplitAddress(own.Listen.Control)
	if err != nil {
		return nil, err
	}
	// It ends when it is stopped, after what still needs it.
	dctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- daemon.Run(dctx, daemon.Options{Config: own, KeeperProgram: "none", Logger: log}) }()
	client := control.NewClient(socket)
	h := &host{client: client, ninep: own.Listen.NineP[0], private: true, stop: func() error {
		client.Close()
		cancel()
		return <-done
	}}
	err = wait(ctx, hostStart, func() (bool, error) {
		select {
		case err := <-done:
			done <- nil // for stop
			return false, errors.Join(errors.New("it ended"), err)
		default:
		}
		_, err := client.Status(ctx)
		return err == nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("private daemon: %w", errors.Join(err, h.stop()))
	}
	return h, nil
}

// wait asks ready until it says yes or fails.
func wait(ctx context.Context, patience time.Duration, ready func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(pollTime)
	defer tick.Stop()
	for {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// busy reports whether somebody reads the image there: what they read, and what a
// run reads, could not be told apart.
func (h *host) busy(ctx context.Context, img *source.Image) (bool, error) {
	st, err := h.client.Status(ctx)
	if err != nil {
		return false, err
	}
	var layers []string
	for _, l := range img.Manifest.Layers {
		layers = append(layers, l.Digest.String())
	}
	return slices.ContainsFunc(st.Trees, func(t control.Tree) bool { return t.Users > 0 && slices.Equal(t.Layers, layers) }), nil
}

// putAside removes the profile of an image, and gives a function that has things
// again as they were.
func (h *host) putAside(ctx context.Context, manifest string) (putBack func(context.Context) error, err error) {
	old, err := h.client.ExportProfile(ctx, manifest, control.ProfileFormat)
	switch {
	case fserr.Is(err, fserr.NotExist):
		return func(ctx context.Context) error {
			if err := h.client.RemoveProfile(ctx, manifest); !fserr.Is(err, fserr.NotExist) {
				return err
			}
			return nil
		}, nil
	case err != nil:
		return nil, err
	}
	if err := h.client.RemoveProfile(ctx, manifest); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		_, err := h.client.ImportProfile(ctx, old)
		return err
	}, nil
}

// profileSoon waits for the profile of a run that has just ended.
func (h *host) profileSoon(ctx context.Context, manifest string) (control.ProfileDetail, error) {
	var detail control.ProfileDetail
	err := wait(ctx, hostStart/2, func() (bool, error) {
		var err error
		detail, err = h.client.Profile(ctx, manifest)
		if fserr.Is(err, fserr.NotExist) {
			return false, nil
		}
		return err == nil, err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		why := "nothing of it was read"
		if !h.private {
			why += ", or the running daemon does not record: --private has another one do that"
		}
		err = fserr.Newf(fserr.NotExist, "record", manifest, "%s", why)
	}
	return detail, err
}
