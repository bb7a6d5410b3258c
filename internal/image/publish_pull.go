package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/soci"
	"github.com/nineply/nineply/internal/source"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PullIndex takes over an index that refers to an image: the one with the digest
// given, or the newest of Nineply's own, or a SOCI index if there is none of those.
// It is used for this image only, and for those of its layers that nothing surer is
// known of.
func (c *Catalog) PullIndex(ctx context.Context, ref, index string) (*Published, error) {
	rec, err := c.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	r, err := c.choose(ctx, rec, index)
	if err != nil {
		return nil, err
	}
	wants, err := rec.wants()
	if err != nil {
		return nil, err
	}
	out := &Published{Ref: rec.Ref, Manifest: rec.Manifest, Digest: r.digest.String()}
	taken := 0
	for _, w := range wants {
		row := PublishedLayer{Digest: w.digest.String()}
		size, err := c.pullLayer(ctx, w, r)
		switch {
		case err == nil:
			row.Size = size
			out.Size += size
			taken++
		case unusable(err) || fserr.Is(err, fserr.NotExist) || fserr.Is(err, fserr.Busy):
			row.Reason = err.Error()
		default:
			return nil, err
		}
		out.Layers = append(out.Layers, row)
	}
	if taken == 0 {
		return out, fserr.Newf(fserr.Unsupported, "pull", "index "+out.Digest, "%s", reasons(out.Layers))
	}
	return out, nil
}

func reasons(rows []PublishedLayer) string {
	texts := make([]string, len(rows))
	for i, r := range rows {
		texts[i] = r.Digest + ": " + r.Reason
	}
	return strings.Join(texts, "; ")
}

// choose finds the index to be pulled.
func (c *Catalog) choose(ctx context.Context, rec *imageRecord, index string) (referrer, error) {
	fetcher, ok := c.source.(source.Fetcher)
	if !ok {
		return referrer{}, fserr.Newf(fserr.Unsupported, "pull", rec.Ref, "the source has no manifests")
	}
	if index != "" {
		if _, err := parseDigest("index", index); err != nil {
			return referrer{}, err
		}
		_, err := c.published(ctx, rec.Ref, digest.Digest(index), rec.Manifest)
		if fserr.Is(err, fserr.Unsupported) { // perhaps one of SOCI, which shows later
			return referrer{digest: digest.Digest(index), soci: true}, nil
		}
		return referrer{digest: digest.Digest(index)}, err
	}
	list, err := source.FindReferrers(ctx, fetcher, rec.Ref, digest.Digest(rec.Manifest), "")
	if err != nil {
		return referrer{}, err
	}
	list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool {
		return d.ArtifactType != ArtifactType && d.ArtifactType != soci.ArtifactTypeV1
	})
	sort.SliceStable(list, func(i, j int) bool { return better(list[i], list[j]) })
	if len(list) == 0 {
		return referrer{}, fserr.Newf(fserr.NotExist, "pull", rec.Ref, "no index refers to it")
	}
	return referrer{digest: list[0].Digest, soci: list[0].ArtifactType == soci.ArtifactTypeV1}, nil
}

// better reports whether index a is to be preferred: own ones, then new ones.
func better(a, b ocispec.Descriptor) bool {
	if a.ArtifactType != b.ArtifactType {
		return a.ArtifactType == ArtifactType
	}
	return a.Annotations[ocispec.AnnotationCreated] > b.Annotations[ocispec.AnnotationCreated]
}

// pullLayer takes over the index of one layer, and gives its size here.
func (c *Catalog) pullLayer(ctx context.Context, w want, r referrer) (int64, error) {
	if claim, reason := claimOf(*w.desc); reason == "" && !claim.None() {
		return 0, fserr.Newf(fserr.Unsupported, "pull", "", "the layer has a table of contents of its own")
	}
	if err := c.load(ctx, keyLayer+plainID(w.digest).String(), new(layerRecord)); err == nil {
		return 0, fserr.Newf(fserr.Unsupported, "pull", "", "this node has read the layer whole")
	}
	d, err := parseDigest("manifest", w.manifest)
	if err != nil {
		return 0, err
	}
	id := layerID{blob: w.digest, vouch: d}
	// Whoever opens the layer meanwhile would write the same files.
	for ran := false; !ran; {
		_, err = share(ctx, c, c.opens, w.digest, func(ctx context.Context) (*Layer, error) {
			ran = true
			return nil, c.takeOver(ctx, w, id, r)
		})
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	if err != nil {
		return 0, err
	}
	return c.filesSize(id), nil
}

// takeOver makes the index of one layer and records it.
func (c *Catalog) takeOver(ctx context.Context, w want, id layerID, r referrer) error {
	if c.find(want{digest: id.blob, vouch: id.vouch}, 0) != nil {
		return fserr.Newf(fserr.Busy, "pull", "", "the layer is in use by an index already")
	}
	blob, err := c.source.Blob(ctx, w.ref, *w.desc)
	if err != nil {
		return err
	}
	rec := layerRecord{Ref: w.ref, Desc: *w.desc, Manifest: w.manifest, SOCI: w.soci}
	if err := c.byReferrer(ctx, w, blob, id, r, &rec); err != nil {
		return err
	}
	rec.Origin += ", pulled"
	rec.By = byPull
	if err := c.save(ctx, keyLayer+id.String(), rec); err != nil {
		return err
	}
	c.setGivenUp(id, false)
	return nil
}

// filesSize is what a layer's index takes here, bytes.
func (c *Catalog) filesSize(id layerID) int64 {
	var size int64
	for _, path := range []string{c.layerPath(id), c.spansPath(id), c.learnedPath(id)} {
		if st, err := os.Stat(path); err == nil {
			size += st.Size()
		}
	}
	return size
}

// IndexInfo describes an index of a layer that this node has.
type IndexInfo struct {
	Layer   string `json:"layer"` // digest of the blob
	Ref     string `json:"ref"`   // an image that has it
	Format  string `json:"format"`
	Origin  string `json:"origin"`
	Size    int64  `json:"size"`              // here, bytes
	Blob    int64  `json:"blob"`              // size of the layer, bytes
	Refused string `json:"refused,omitempty"` // why it is not used any more
}

// madeHere is the origin of an index that came from the blob itself.
const madeHere = "made here"

// Indexes lists the indexes of layers that have none inside: of an image, or all
// if name is "".
func (c *Catalog) Indexes(ctx context.Context, name string) ([]IndexInfo, error) {
	var list []IndexInfo
	err := c.eachIndex(ctx, name, func(id layerID, rec layerRecord) error {
		info := IndexInfo{
			Layer: id.blob.String(), Ref: rec.Ref, Format: rec.Format, Origin: rec.Origin,
			Size: c.filesSize(id), Blob: rec.Desc.Size, Refused: rec.Refused,
		}
		if info.Origin == "" {
			info.Origin = madeHere
		}
		list = append(list, info)
		return nil
	})
	return list, err
}

// RemoveIndexes removes the indexes of the layers of an image, or of the layer with
// a digest, and gives their number. Those in use stay, and are an error.
func (c *Catalog) RemoveIndexes(ctx context.Context, name string) (int, error) {
	var ids []layerID
	err := c.eachIndex(ctx, name, func(id layerID, _ layerRecord) error {
		ids = append(ids, id)
		return nil
	})
	if err != nil {
		return 0, err
	}
	var errs []error
	removed := 0
	for _, id := range ids {
		if c.inUse(id) {
			errs = append(errs, fserr.Newf(fserr.Busy, "remove", id.String(), "the index is in use"))
			continue
		}
		c.detach(id)
		if err := errors.Join(c.records.Delete(ctx, keyLayer+id.String()), c.removeFiles(id)); err != nil {
			errs = append(errs, fmt.Errorf("index %s: %w", id, err))
			continue
		}
		c.setGivenUp(id, false)
		removed++
	}
	return removed, errors.Join(errs...)
}

// inUse reports whether someone has a tree with the layer attached.
func (c *Catalog) inUse(id layerID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.layers[id]
	if l == nil {
		return false
	}
	users := l.users
	for _, t := range c.trees {
		if t.users > 0 {
			continue
		}
		for _, other := range t.layers { // it may be there more than once
			if other == l {
				users-- // a tree that is only kept open
			}
		}
	}
	return users > 0
}

// eachIndex calls fn with the records of layers that can do without a TOC.
func (c *Catalog) eachIndex(ctx context.Context, name string, fn func(layerID, layerRecord) error) error {
	only, err := c.blobsOf(ctx, name)
	if err != nil {
		return err
	}
	var ids []layerID
	err = c.records.Walk(ctx, keyLayer, func(key string, _ []byte) error {
		id, err := parseLayerID(strings.TrimPrefix(key, keyLayer))
		if err == nil && (only == nil || only[id.blob]) {
			ids = append(ids, id)
		}
		return nil //nolint:nilerr // a key of another version is nothing to list
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		var rec layerRecord
		if err := c.load(ctx, keyLayer+id.String(), &rec); err != nil {
			continue // removed meanwhile
		}
		switch rec.Format {
		case formatGzipIndex, formatTarIndex, formatSOCI:
			if err := fn(id, rec); err != nil {
				return err
			}
		}
	}
	return nil
}

// blobsOf gives the layers that a name stands for: of an image, one by its digest,
// or nil for all.
func (c *Catalog) blobsOf(ctx context.Context, name string) (map[estargz.Digest]bool, error) {
	if name == "" {
		return nil, nil
	}
	if d, err := estargz.ParseDigest(name); err == nil {
		if _, kerr := c.known(ctx, name); kerr != nil {
			return map[estargz.Digest]bool{d: true}, nil //nolint:nilerr // not an image: a layer
		}
	}
	rec, err := c.resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	wants, err := rec.wants()
	if err != nil {
		return nil, err
	}
	only := map[estargz.Digest]bool{}
	for _, w := range wants {
		only[w.digest] = true
	}
	return only, nil
}

// parseLayerID reads what [layerID.String] wrote.
func parseLayerID(s string) (id layerID, err error) {
	blob, vouch, ok := strings.Cut(s, "+")
	if id.blob, err = estargz.ParseDigest(blob); err == nil && ok {
		id.vouch, err = estargz.ParseDigest(vouch)
	}
	return id, err
}
