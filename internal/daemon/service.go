package daemon

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/p9server"
)

// keeperClient is what the daemon asks of the process that holds mounts.
type keeperClient interface {
	Mount(ctx context.Context, aname, target, mode string) error
	Unmount(ctx context.Context, target string) error
	Mounts(ctx context.Context) ([]control.Mount, error)
}

// service answers the control API.
type service struct {
	version string
	started time.Time
	mode    string // mount mode where a request names none
	catalog *image.Catalog
	store   *chunkstore.Store
	cache   *image.Cache
	sched   *fetch.Scheduler
	server  *p9server.Server
	events  *eventLog
	keeper  keeperClient
	traffic func() map[string]source.HostStats // nil: there is no source with hosts
}

var _ control.Service = (*service)(nil)

// AddLayer implements control.Service.
func (s *service) AddLayer(ctx context.Context, l control.Layer) (control.LayerStatus, error) {
	info, err := s.catalog.AddLayer(ctx, image.LayerRequest{
		Ref: l.Ref, Manifest: l.ManifestDigest, Digest: l.Digest, ChainID: l.ChainID, Parent: l.Parent, DiffID: l.DiffID,
	})
	return layerStatus(info), err
}

func layerStatus(i image.LayerInfo) control.LayerStatus {
	return control.LayerStatus{
		Digest: i.Digest, Lazy: i.Lazy, Reason: i.Reason, Format: i.Format, Origin: i.Origin, Size: i.Size, Files: i.Files,
		Fetched: i.Fetched, LocalChunks: i.Local, Chunks: i.Chunks,
		State: i.Fill.State, StateReason: i.Fill.Reason, Done: i.Fill.Done,
	}
}

// RemoveChain implements control.Service.
func (s *service) RemoveChain(ctx context.Context, id string) error {
	return s.catalog.RemoveChain(ctx, id)
}

// Mount implements control.Service. The keeper is given the name that stands for
// this very tree for ever: it attaches again after every restart of the daemon,
// and a tag may have moved by then.
func (s *service) Mount(ctx context.Context, m control.MountRequest) error {
	if !filepath.IsAbs(m.Target) || filepath.Clean(m.Target) != m.Target {
		return fserr.Newf(fserr.Invalid, "mount", "", "target %q is not a clean absolute path", m.Target)
	}
	base, ids, err := cutIDs(m.Aname)
	if err != nil {
		return err
	}
	name, err := s.catalog.Canonical(ctx, base)
	if err != nil {
		return err
	}
	// Opening it here reports what is wrong with the cause; 9P could only say EIO.
	_, release, err := s.catalog.Open(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	mode := m.Mode
	if mode == "" {
		mode = s.mode
	}
	return s.keeper.Mount(ctx, name+ids.String(), m.Target, mode)
}

// Unmount implements control.Service.
func (s *service) Unmount(ctx context.Context, target string) error {
	if !strings.HasPrefix(target, "/") {
		return fserr.Newf(fserr.Invalid, "unmount", "", "target %q is not an absolute path", target)
	}
	return s.keeper.Unmount(ctx, target)
}

// Status implements control.Service.
func (s *service) Status(ctx context.Context) (control.Status, error) {
	st := control.Status{
		Version: s.version, PID: os.Getpid(), Started: s.started, Uptime: time.Since(s.started).Seconds(),
		Cache: s.cacheStatus(), Fetch: s.fetchStatus(), Sessions: s.server.Stats().Conns,
	}
	for _, t := range s.catalog.Trees() {
		st.Trees = append(st.Trees, treeStatus(t))
	}
	for _, l := range s.catalog.Layers() {
		st.Layers = append(st.Layers, layerStatus(l))
	}
	mounts, err := s.keeper.Mounts(ctx)
	if err != nil {
		st.KeeperError = err.Error()
	}
	st.Mounts = mounts
	return st, nil
}

func (s *service) cacheStatus() control.CacheStatus {
	st := s.store.Stats()
	return control.CacheStatus{Bytes: st.Bytes, MaxBytes: st.MaxBytes, Chunks: st.Chunks, Evicted: st.EvictedBytes, Corrupt: uint64(st.Corrupt)}
}

func (s *service) fetchStatus() control.FetchStatus {
	st := s.sched.Stats()
	toc, whole := s.catalog.Stats()
	return control.FetchStatus{
		Requests: st.Requests, Bytes: st.Bytes, Whole: whole, TOC: toc,
		Hits: st.Hits, Misses: st.Misses, Corrupt: st.Corrupt, Queued: st.Queued, Active: st.Active,
	}
}
