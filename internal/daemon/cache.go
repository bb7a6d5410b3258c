package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"go.uber.org/zap"
)

// storeOptions are those of the chunk store below a root directory.
func storeOptions(c config.Config, log *zap.Logger) chunkstore.Options {
	return chunkstore.Options{Dir: filepath.Join(c.Root, "chunks"), MaxBytes: int64(c.Cache.MaxSize), Logger: log.Named("cache")}
}

// CacheList implements control.Service.
func (s *service) CacheList(ctx context.Context, name string) (control.CacheList, error) {
	images, err := s.cache.Images(ctx, name)
	if err != nil {
		return control.CacheList{}, err
	}
	st := s.store.Stats()
	out := control.CacheList{
		Bytes: st.Bytes, MaxBytes: st.MaxBytes, Chunks: st.Chunks, ProvenBytes: st.ProvenBytes, Pinned: st.Pinned,
		Images: make([]control.CacheImage, len(images)),
	}
	for i, img := range images {
		to := control.CacheImage{Ref: img.Ref, Manifest: img.Manifest, Pinned: img.Pinned, InUse: img.InUse}
		for _, l := range img.Layers {
			to.Chunks += l.Chunks
			to.Local += l.Local
			to.Bytes += l.Bytes
			to.LocalBytes += l.LocalBytes
			to.Layers = append(to.Layers, control.CacheLayer(l))
		}
		out.Images[i] = to
	}
	return out, nil
}

// CollectCache implements control.Service. What the keeper has mounted stays, even
// if it has not attached again yet.
func (s *service) CollectCache(ctx context.Context, r control.CacheCollect) (control.CacheCollected, error) {
	o := image.CollectOptions{Unused: r.Unused, Target: -1}
	if r.Target != nil {
		if o.Target = *r.Target; o.Target < 0 {
			return control.CacheCollected{}, fserr.Newf(fserr.Invalid, "collect", "cache", "target of %d bytes", o.Target)
		}
	}
	if mounts, err := s.keeper.Mounts(ctx); err == nil { // else there are none, but for trees attached
		for _, m := range mounts {
			o.Mounted = append(o.Mounted, m.Aname)
		}
	}
	before := s.store.Stats()
	done, err := s.cache.Collect(ctx, o)
	st := s.store.Stats()
	return control.CacheCollected{
		Images: done.Images, Layers: done.Layers, Files: done.Files, FileBytes: done.FileBytes,
		Chunks: st.EvictedChunks - before.EvictedChunks, FreedBytes: done.FreedBytes, Bytes: st.Bytes,
	}, err
}

// VerifyCache implements control.Service.
func (s *service) VerifyCache(ctx context.Context, progress func(control.CacheProgress)) (control.CacheVerified, error) {
	return verifyStore(ctx, s.store, progress)
}

// RebuildCache implements control.Service.
func (s *service) RebuildCache(ctx context.Context, progress func(control.CacheProgress)) (control.CacheRebuilt, error) {
	return rebuildStore(ctx, s.store, progress)
}

// PinImage implements control.Service.
func (s *service) PinImage(ctx context.Context, name string) (control.CachePinned, error) {
	manifest, chunks, err := s.cache.Pin(ctx, name)
	if err != nil {
		return control.CachePinned{}, err
	}
	return control.CachePinned{Manifests: []string{manifest}, Chunks: chunks}, nil
}

// UnpinImage implements control.Service.
func (s *service) UnpinImage(ctx context.Context, name string) (control.CachePinned, error) {
	manifests, err := s.cache.Unpin(ctx, name)
	return control.CachePinned{Manifests: manifests}, err
}

// progressEvery is how often progress is told of.
const progressEvery = 200 * time.Millisecond

// maxDamaged bounds the digests in a report.
const maxDamaged = 100

// verifyStore checks every chunk of a store.
func verifyStore(ctx context.Context, store *chunkstore.Store, progress func(control.CacheProgress)) (control.CacheVerified, error) {
	out := control.CacheVerified{Digests: []string{}}
	all, told := store.Stats().Chunks, time.Now()
	err := store.Verify(ctx, func(c chunkstore.Checked) error {
		out.Chunks++
		out.Bytes += c.Size
		switch {
		case fserr.Is(c.Err, fserr.Corrupt):
			out.Damaged++
			if len(out.Digests) < maxDamaged {
				out.Digests = append(out.Digests, "sha256:"+hex.EncodeToString(c.Digest[:]))
			}
		case c.Err != nil: // it cannot be read just now: nothing is known
			return c.Err
		}
		if now := time.Now(); progress != nil && now.Sub(told) >= progressEvery {
			told = now
			progress(control.CacheProgress{Done: out.Chunks, All: max(all, out.Chunks), Bytes: out.Bytes})
		}
		return nil
	})
	return out, err
}

// rebuildStore finds the places of a store's chunks anew.
func rebuildStore(ctx context.Context, store *chunkstore.Store, progress func(control.CacheProgress)) (control.CacheRebuilt, error) {
	out := control.CacheRebuilt{Before: store.Stats().Chunks}
	told := time.Now()
	err := store.Rebuild(ctx, func(done, all int) {
		if now := time.Now(); progress != nil && now.Sub(told) >= progressEvery {
			told = now
			progress(control.CacheProgress{Done: int64(done), All: int64(all)})
		}
	})
	st := store.Stats()
	out.Segments, out.Chunks = st.Segments, st.Chunks
	return out, err
}

// VerifyOffline checks the chunks of a store that no daemon has open, and drops
// the damaged ones. fserr.Busy if one has.
func VerifyOffline(ctx context.Context, c config.Config, progress func(control.CacheProgress)) (out control.CacheVerified, err error) {
	err = offline(ctx, c, func(store *chunkstore.Store) error {
		out, err = verifyStore(ctx, store, progress)
		return err
	})
	return out, err
}

// RebuildOffline finds the places of chunks anew in a store that no daemon has
// open. fserr.Busy if one has.
func RebuildOffline(ctx context.Context, c config.Config, progress func(control.CacheProgress)) (out control.CacheRebuilt, err error) {
	err = offline(ctx, c, func(store *chunkstore.Store) error {
		out, err = rebuildStore(ctx, store, progress)
		return err
	})
	return out, err
}

func offline(ctx context.Context, c config.Config, work func(*chunkstore.Store) error) error {
	log, err := newLogger(c.Log.Level)
	if err != nil {
		return err
	}
	o := storeOptions(c, log)
	if _, err := os.Stat(o.Dir); err != nil { // opening would make one
		return fserr.New(fserr.NotExist, "open chunk store", o.Dir, err)
	}
	store, err := chunkstore.Open(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(work(store), store.Close())
}
