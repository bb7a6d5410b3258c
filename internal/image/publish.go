package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A published index is a manifest whose subject is that of the image, with one
// layer for each layer of the image that it has an index of.
const (
	// ArtifactType is that of a published index.
	ArtifactType = "application/vnd.nineply.index.v1+json"
	// maxPublished bounds the index of one layer, packed; bytes.
	maxPublished = 1 << 30

	annotationLayerDigest = "io.github.nineply.layer.digest"
	annotationLayerDiffID = "io.github.nineply.layer.diff-id"
)

// Published describes an index that was pushed or pulled.
type Published struct {
	Ref      string           `json:"ref"`
	Manifest string           `json:"manifest"` // of the image
	Digest   string           `json:"digest"`   // of the index
	Size     int64            `json:"size"`     // of all its parts, bytes
	Layers   []PublishedLayer `json:"layers"`
}

// PublishedLayer says what an index has of one layer of the image.
type PublishedLayer struct {
	Digest string `json:"digest"`           // of the layer
	Size   int64  `json:"size"`             // of its index, bytes; 0 if it has none
	Reason string `json:"reason,omitempty"` // why it has none, or was not taken
}

// Publish pushes what this node knows of the layers of an image into the image's
// repository. Layers that have no index and need one are read whole first.
func (c *Catalog) Publish(ctx context.Context, ref string) (*Published, error) {
	rec, err := c.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	wants, err := rec.wants()
	if err != nil {
		return nil, err
	}
	layers, err := c.acquireAll(ctx, wants)
	if err != nil {
		return nil, err
	}
	defer c.release(layers...)
	var out *Published
	err = c.publishBeside(ctx, rec, func(p *publisher) (err error) {
		out, err = p.push(ctx, layers)
		return err
	})
	return out, err
}

// publishBeside opens the repository of an image for things that refer to the
// image, and closes it again.
func (c *Catalog) publishBeside(ctx context.Context, rec *imageRecord, push func(p *publisher) error) error {
	target, ok := c.source.(interface {
		source.Fetcher
		source.PushTarget
	})
	if !ok {
		return fserr.Newf(fserr.Unsupported, "push", rec.Ref, "nothing can be written there")
	}
	subject, err := c.manifestDescriptor(ctx, rec)
	if err != nil {
		return err
	}
	pusher, err := target.Pusher(ctx, rec.Ref)
	if err != nil {
		return err
	}
	err = push(&publisher{c: c, rec: rec, src: target, pusher: pusher, subject: subject})
	if u, ok := pusher.(source.Unpinner); ok {
		err = errors.Join(err, u.Close())
	}
	return err
}

// manifestDescriptor reads the manifest of an image again.
func (c *Catalog) manifestDescriptor(ctx context.Context, rec *imageRecord) (ocispec.Descriptor, error) {
	data, err := c.manifest(ctx, rec.Ref, digest.Digest(rec.Manifest))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{Digest: digest.Digest(rec.Manifest), Size: int64(len(data))}
	desc.MediaType = source.ManifestType(ocispec.MediaTypeImageManifest, data)
	return desc, nil
}

// publisher pushes one index.
type publisher struct {
	c       *Catalog
	rec     *imageRecord
	src     source.Fetcher
	pusher  source.Pusher
	subject ocispec.Descriptor
}

func (p *publisher) push(ctx context.Context, layers []*Layer) (*Published, error) {
	out := &Published{Ref: p.rec.Ref, Manifest: p.rec.Manifest}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: ArtifactType,
		Subject:     &p.subject,
		Annotations: map[string]string{ocispec.AnnotationCreated: time.Now().UTC().Format(time.RFC3339)},
	}
	for i, l := range layers {
		row := PublishedLayer{Digest: l.id.blob.String()}
		switch {
		case !l.id.vouch.IsZero():
			row.Reason = "it has an index of another origin: " + l.rec.Format
		case l.rec.Format != formatGzipIndex && l.rec.Format != formatTarIndex:
			row.Reason = "there is no index for its format"
		default:
			desc, err := p.pushLayer(ctx, l)
			if err != nil {
				return nil, fmt.Errorf("index of layer %s: %w", l.id.blob, err)
			}
			if i < len(p.rec.DiffIDs) {
				desc.Annotations[annotationLayerDiffID] = p.rec.DiffIDs[i]
			}
			row.Size = desc.Size
			out.Size += desc.Size
			m.Layers = append(m.Layers, desc)
		}
		out.Layers = append(out.Layers, row)
	}
	if len(m.Layers) == 0 {
		return out, fserr.Newf(fserr.Unsupported, "push", p.rec.Ref, "no layer of it needs an index, or can have one")
	}
	if same := p.existing(ctx, m.Layers); same != "" {
		out.Digest = same.String()
		return out, nil
	}
	desc, err := p.pushManifest(ctx, m)
	if err != nil {
		return nil, err
	}
	out.Digest = desc.Digest.String()
	return out, nil
}

// existing finds an index that was pushed before and has the same parts, so that
// pushing again changes nothing. What cannot be read is none.
func (p *publisher) existing(ctx context.Context, layers []ocispec.Descriptor) digest.Digest {
	list, err := source.FindReferrers(ctx, p.src, p.rec.Ref, p.subject.Digest, ArtifactType)
	if err != nil {
		return ""
	}
	for _, d := range list[:min(len(list), maxReferrers)] {
		old, err := p.c.published(ctx, p.rec.Ref, d.Digest, p.rec.Manifest)
		if err != nil || len(old.layers) != len(layers) {
			continue
		}
		if !slices.ContainsFunc(layers, func(l ocispec.Descriptor) bool {
			return old.layers[l.Annotations[annotationLayerDigest]].Digest != l.Digest
		}) {
			return d.Digest
		}
	}
	return ""
}

// pushManifest makes the index known, once all that it is made of is there.
func (p *publisher) pushManifest(ctx context.Context, m ocispec.Manifest) (ocispec.Descriptor, error) {
	m.Config = ocispec.DescriptorEmptyJSON
	config := m.Config.Data
	m.Config.Data = nil
	err := p.pusher.PushBlob(ctx, m.Config, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(config)), nil })
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("encode index: %w", err)
	}
	desc, err := p.pusher.PushManifest(ctx, "", m.MediaType, data)
	if err != nil {
		return desc, err
	}
	desc.ArtifactType, desc.Annotations = m.ArtifactType, m.Annotations
	if err := source.AddReferrer(ctx, p.src, p.pusher, p.rec.Ref, p.subject.Digest, desc); err != nil {
		return desc, err
	}
	if committer, ok := p.pusher.(source.Committer); ok {
		return desc, committer.Commit(ctx)
	}
	return desc, nil
}

// pushLayer pushes the index of one layer.
func (p *publisher) pushLayer(ctx context.Context, l *Layer) (ocispec.Descriptor, error) {
	tmp, err := os.CreateTemp("", "nineply-index-*")
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // of no use any more, whatever happened
	sum, size, err := pack(tmp, p.c.place(l.id), l.rec.DiffID)
	if err = errors.Join(err, tmp.Close()); err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{
		MediaType: IndexMediaType, Digest: sum, Size: size,
		Annotations: map[string]string{annotationLayerDigest: l.id.blob.String()},
	}
	return desc, p.pusher.PushBlob(ctx, desc, func() (io.ReadCloser, error) { return os.Open(tmp.Name()) })
}

// pack packs an index into a file, and gives the file's digest and size.
func pack(f *os.File, place indexPlace, diffID string) (digest.Digest, int64, error) {
	if err := packIndex(f, place, diffID); err != nil {
		return "", 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", 0, err
	}
	sum := digest.Canonical.Digester()
	size, err := io.Copy(sum.Hash(), f)
	return sum.Digest(), size, err
}

func (c *Catalog) place(id layerID) indexPlace {
	return indexPlace{layer: c.layerPath(id), spans: c.spansPath(id)}
}

// publication is a published index, read.
type publication struct {
	ref    string
	digest digest.Digest
	layers map[string]ocispec.Descriptor // by the digest of the image's layer
}

// published reads the index with a digest, which must be for the manifest.
func (c *Catalog) published(ctx context.Context, ref string, d digest.Digest, manifest string) (*publication, error) {
	data, err := c.manifest(ctx, ref, d)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fserr.New(fserr.Corrupt, "decode", "index "+d.String(), err)
	}
	switch {
	case m.ArtifactType != ArtifactType:
		return nil, fserr.Newf(fserr.Unsupported, "read", "index "+d.String(), "artifact type %.100q", m.ArtifactType)
	case m.Subject == nil || m.Subject.Digest.String() != manifest:
		return nil, fserr.Newf(fserr.Corrupt, "read", "index "+d.String(), "it is for another image")
	case len(m.Layers) > source.MaxLayers:
		return nil, fserr.Newf(fserr.TooLarge, "read", "index "+d.String(), "%d layers", len(m.Layers))
	}
	p := &publication{ref: ref, digest: d, layers: map[string]ocispec.Descriptor{}}
	for _, l := range m.Layers {
		if l.MediaType != IndexMediaType {
			continue // something that came later
		}
		if _, err := estargz.ParseDigest(l.Digest.String()); err != nil || l.Size < 0 || l.Size > maxPublished {
			return nil, fserr.Newf(fserr.Corrupt, "read", "index "+d.String(), "descriptor of %d bytes with digest %.100q", l.Size, l.Digest)
		}
		p.layers[l.Annotations[annotationLayerDigest]] = l
	}
	return p, nil
}

// adopt makes a layer's index of the one that was published, and gives its format.
// It is checked as what it is, a stranger's. What it leads to is held against the
// digests of the chunks when it is read.
func (c *Catalog) adopt(ctx context.Context, w want, id layerID, p *publication, rec *layerRecord) error {
	desc, ok := p.layers[w.digest.String()]
	if !ok {
		return fserr.Newf(fserr.Unsupported, "read", "index "+p.digest.String(), "it has nothing for this layer")
	}
	blob, err := c.source.Blob(ctx, p.ref, desc)
	if err != nil {
		return err
	}
	rc, err := blob.Stream(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { _ = rc.Close() }() // only read from
	counted := &countingReader{r: source.Verified(rc, desc.Digest, desc.Size), n: &c.tocBytes}
	rec.Format, _, err = unpackIndex(counted, indexFor{blob: w.digest, size: w.desc.Size, diffID: w.diffID}, c.place(id))
	if err != nil {
		return fserr.New(fserr.KindOf(err), "read", "index "+p.digest.String(), err)
	}
	return nil
}
