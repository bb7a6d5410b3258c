package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/snapshotter"
)

// backend lets the snapshotter use the control API, in this process or another.
type backend struct {
	api    control.Service
	mounts string // directory of the mount points
	mode   string
}

var _ snapshotter.Backend = backend{}

// AddLayer implements snapshotter.Backend.
func (b backend) AddLayer(ctx context.Context, l snapshotter.Layer) (snapshotter.LayerStatus, error) {
	st, err := b.api.AddLayer(ctx, control.Layer{
		Ref: l.Ref, Digest: l.Digest, ManifestDigest: l.ManifestDigest, ChainID: l.ChainID, Parent: l.Parent, DiffID: l.DiffID, Labels: l.Labels,
	})
	return snapshotter.LayerStatus{Lazy: st.Lazy, Reason: st.Reason, Size: st.Size, Files: st.Files}, err
}

// RemoveChain implements snapshotter.Backend.
func (b backend) RemoveChain(ctx context.Context, chainID string) error {
	return b.api.RemoveChain(ctx, chainID)
}

// target is where a chain is mounted: short, since overlay's options have to fit
// into one page.
func (b backend) target(chainID string) (string, error) {
	d, err := estargz.ParseDigest(chainID)
	if err != nil {
		return "", fmt.Errorf("chain: %w", err)
	}
	return filepath.Join(b.mounts, hex.EncodeToString(d[:12])), nil
}

// Mount implements snapshotter.Backend.
func (b backend) Mount(ctx context.Context, chainID string) (string, error) {
	target, err := b.target(chainID)
	if err != nil {
		return "", err
	}
	return target, b.mountAt(ctx, "chain/"+chainID, target)
}

func (b backend) mountAt(ctx context.Context, aname, target string) error {
	// A mount point whose server is gone answers stat with an error but exists.
	if err := os.MkdirAll(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fserr.New(fserr.Internal, "mount point", target, err)
	}
	return b.api.Mount(ctx, control.MountRequest{Aname: aname, Target: target, Mode: b.mode})
}

// Unmount implements snapshotter.Backend.
func (b backend) Unmount(ctx context.Context, chainID string) error {
	target, err := b.target(chainID)
	if err != nil {
		return err
	}
	return b.unmountAt(ctx, target)
}

func (b backend) unmountAt(ctx context.Context, target string) error {
	if err := b.api.Unmount(ctx, target); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fserr.New(fserr.Busy, "mount point", target, err)
	}
	return nil
}
