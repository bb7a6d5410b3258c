package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/soci"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/layerindex"
	digest "github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// Trust says which indexes that lie beside an image are used without being asked
// for.
type Trust struct {
	SOCI      bool // SOCI indexes that the image index names by digest
	SOCIv1    bool // SOCI indexes that refer to the image
	Referrers bool // Nineply's own that refer to the image
	// Pins are digests of indexes of either kind that are used even so.
	Pins []digest.Digest
}

// The ways by which an index beside an image is come by.
const (
	bySOCI      = "soci"
	bySOCIv1    = "soci_v1"
	byReferrers = "referrers"
	byPull      = "pull"
)

// allows reports whether the index that a record is of may still be used.
func (t Trust) allows(rec *layerRecord) bool {
	pinned := slices.Contains(t.Pins, digest.Digest(rec.Index))
	switch rec.By {
	case bySOCI:
		return t.SOCI
	case bySOCIv1:
		return t.SOCIv1 || pinned
	case byReferrers:
		return t.Referrers || pinned
	}
	return true
}

// maxReferrers is how many indexes that refer to an image are looked at.
const maxReferrers = 8

// indexBeside makes a layer's index from one that lies beside the image. When there
// is none that can be used, found is false and rec.Reason says why.
func (c *Catalog) indexBeside(ctx context.Context, w want, blob source.Blob, rec *layerRecord) (id layerID, found bool, err error) {
	for _, try := range []func(context.Context, want, source.Blob, *layerRecord) (layerID, error){c.bySOCI, c.byReferrers} {
		id, err = try(ctx, w, blob, rec)
		switch {
		case err == nil && rec.Format != "":
			rec.Reason = ""
			return id, true, nil
		case err == nil:
		case unusable(err) || fserr.Is(err, fserr.NotExist) || fserr.Is(err, fserr.Unauthorized):
			rec.Reason += "; " + err.Error()
		default:
			return id, false, err
		}
	}
	return id, false, nil
}

// refused fails when what vouches for id led to wrong bytes before.
func (c *Catalog) refused(ctx context.Context, id layerID) error {
	var rec layerRecord
	if err := c.load(ctx, keyLayer+id.String(), &rec); err == nil && rec.Refused != "" {
		return fserr.Newf(fserr.Unsupported, "read", rec.Origin, "it led to wrong bytes before: %s", rec.Refused)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.givenUp[id] {
		return fserr.Newf(fserr.Unsupported, "read", id.String(), "it led to wrong bytes before")
	}
	return nil
}

// bySOCI uses the SOCI index that the image index names. rec.Format stays empty if
// there is none.
func (c *Catalog) bySOCI(ctx context.Context, w want, blob source.Blob, rec *layerRecord) (layerID, error) {
	if w.soci == "" || !c.trust.SOCI {
		return layerID{}, nil
	}
	d, err := parseDigest("SOCI index", w.soci)
	if err != nil {
		return layerID{}, err
	}
	id := layerID{blob: w.digest, vouch: d}
	if err := c.refused(ctx, id); err != nil {
		return id, err
	}
	x, err := c.sociIndex(ctx, w.ref, digest.Digest(w.soci))
	if err == nil {
		err = c.indexSOCI(ctx, w, blob, id, x)
	}
	if err != nil {
		return id, fserr.New(fserr.KindOf(err), "", "", fmt.Errorf("SOCI index %s: %w", w.soci, err))
	}
	rec.Format, rec.Origin = formatSOCI, "SOCI index "+w.soci
	rec.By, rec.Index = bySOCI, w.soci
	return id, nil
}

// byReferrers uses an index that refers to the image, as far as the configuration
// allows it.
func (c *Catalog) byReferrers(ctx context.Context, w want, blob source.Blob, rec *layerRecord) (layerID, error) {
	d, err := estargz.ParseDigest(w.manifest)
	if err != nil || !c.trust.Referrers && !c.trust.SOCIv1 && len(c.trust.Pins) == 0 {
		return layerID{}, nil //nolint:nilerr // without a manifest nothing can refer to it
	}
	id := layerID{blob: w.digest, vouch: d}
	if err := c.refused(ctx, id); err != nil {
		return id, err
	}
	list, err := c.referrers(ctx, w)
	if err != nil {
		return id, err
	}
	var reasons []error
	for _, r := range list {
		err := c.byReferrer(ctx, w, blob, id, r, rec)
		if err == nil {
			return id, nil
		}
		if !unusable(err) && !fserr.Is(err, fserr.NotExist) {
			return id, err
		}
		reasons = append(reasons, fmt.Errorf("index %s: %w", r.digest, err))
	}
	if err := errors.Join(reasons...); err != nil {
		return id, fserr.New(fserr.Unsupported, "", "", err)
	}
	return id, nil
}

// referrer is an index that refers to an image.
type referrer struct {
	digest digest.Digest
	soci   bool
}

// referrers lists the indexes that refer to the image and may be used.
func (c *Catalog) referrers(ctx context.Context, w want) ([]referrer, error) {
	fetcher, ok := c.source.(source.Fetcher)
	if !ok {
		return nil, nil
	}
	list, err := source.FindReferrers(ctx, fetcher, w.ref, digest.Digest(w.manifest), "")
	if err != nil {
		return nil, err
	}
	var found []referrer
	for _, d := range list {
		own, v1 := d.ArtifactType == ArtifactType, d.ArtifactType == soci.ArtifactTypeV1
		pinned := slices.Contains(c.trust.Pins, d.Digest)
		if own && (c.trust.Referrers || pinned) || v1 && (c.trust.SOCIv1 || pinned) {
			found = append(found, referrer{digest: d.Digest, soci: v1})
		}
		if len(found) == maxReferrers {
			break
		}
	}
	return found, nil
}

// byReferrer makes a layer's index from one index that refers to the image.
func (c *Catalog) byReferrer(ctx context.Context, w want, blob source.Blob, id layerID, r referrer, rec *layerRecord) error {
	if !r.soci {
		m, err := c.published(ctx, w.ref, r.digest, w.manifest)
		if err != nil {
			return err
		}
		if err := c.adopt(ctx, w, id, m, rec); err != nil {
			return err
		}
		rec.Origin = "index " + r.digest.String()
		rec.By, rec.Index = byReferrers, r.digest.String()
		return nil
	}
	x, err := c.sociIndex(ctx, w.ref, r.digest)
	if err != nil {
		return err
	}
	if x.Subject != w.manifest {
		return fserr.Newf(fserr.Corrupt, "read", "SOCI index", "it is for manifest %.80q", x.Subject)
	}
	if err := c.indexSOCI(ctx, w, blob, id, x); err != nil {
		return err
	}
	rec.Format, rec.Origin = formatSOCI, "SOCI index "+r.digest.String()
	rec.By, rec.Index = bySOCIv1, r.digest.String()
	return nil
}

// distrust gives up the index of a layer that led to wrong bytes. Who uses the
// layer now goes on using it; who opens it next gets it read whole.
func (c *Catalog) distrust(id layerID, cause error) {
	c.goBackground(func(ctx context.Context) {
		if err := c.giveUp(ctx, id, cause.Error()); err != nil {
			c.log.Warn("giving up an index", zap.Stringer("layer", id), zap.Error(err))
		}
	})
}

func (c *Catalog) giveUp(ctx context.Context, id layerID, reason string) error {
	var rec layerRecord
	if err := c.load(ctx, keyLayer+id.String(), &rec); err != nil || rec.Refused != "" {
		return err
	}
	c.log.Warn("the index of a layer led to wrong bytes, it is not used any more",
		zap.Stringer("layer", id), zap.String("index", rec.Origin), zap.String("reason", reason))
	// First of all nobody may find it: neither as it is open, nor by a record that was
	// read before this one is written.
	c.setGivenUp(id, true)
	c.detach(id)
	rec.Refused = reason
	if err := c.save(ctx, keyLayer+id.String(), rec); err != nil {
		return err
	}
	return c.removeFiles(id)
}

func (c *Catalog) setGivenUp(id layerID, is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if is {
		c.givenUp[id] = true
	} else {
		delete(c.givenUp, id)
	}
}

// detach makes the next who wants the layer open it anew. The trees and the layer
// themselves are closed when their last users go.
func (c *Catalog) detach(id layerID) {
	c.mu.Lock()
	l := c.layers[id]
	delete(c.layers, id)
	var idle []*treeState
	for name, t := range c.trees {
		if l == nil || !slices.Contains(t.layers, l) {
			continue
		}
		delete(c.trees, name)
		if t.users == 0 {
			idle = append(idle, t)
		}
	}
	if l != nil && l.users == 0 {
		c.closeLayer(l)
	}
	c.mu.Unlock()
	for _, t := range idle {
		c.closeIndex(t.index)
		c.release(t.layers...)
	}
}

// removeFiles removes what there is of a layer's index. Mappings stay.
func (c *Catalog) removeFiles(id layerID) error {
	var errs []error
	for _, path := range []string{c.layerPath(id), c.spansPath(id), c.learnedPath(id)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// replaceFile writes a file under its name only when all of it is there.
func replaceFile(path string, write func(io.Writer) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), layerindex.TempPattern)
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	err = write(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("index: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}
