package image

import (
	"context"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/profile"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/layerindex"
	"go.uber.org/zap"
)

const (
	// maxVersions is how many profiles of a repository's images are looked at.
	maxVersions = 16
	// maxMoved bounds the chunks that are looked for by the names of their files.
	maxMoved = 20_000
)

// moved is a chunk of a file that lay in a layer which the image does not have any
// more.
type moved struct {
	path         string // without a slash in front
	offset, size uint64
}

// previous is the profile of another image of the same repository.
type previous struct {
	profile *profile.Profile
	kept    map[estargz.Digest]bool // layers of the image to be started
	files   map[int]moved           // by entry
	gone    int64                   // bytes of the entries in layers that the image does not have
}

// previousProfile gives the profile of another version of an image: of those in its
// repository the one with which it shares most bytes of layers, and of several the
// one that changed last.
func (c *Catalog) previousProfile(ctx context.Context, rec *imageRecord) (*previous, error) {
	old, err := c.previousImage(ctx, rec)
	if err != nil {
		return nil, err
	}
	p := &previous{kept: layersOf(rec), files: map[int]moved{}}
	if p.profile, err = c.loadProfile(ctx, old.manifestDigest()); err != nil {
		return nil, err
	}
	for i := range p.profile.Entries {
		if e := &p.profile.Entries[i]; !p.kept[p.profile.Layers[e.Layer].Digest] {
			p.gone += e.Size
		}
	}
	if p.gone > 0 {
		p.findFiles(ctx, c, old)
	}
	return p, nil
}

func (c *Catalog) previousImage(ctx context.Context, rec *imageRecord) (*imageRecord, error) {
	none := fserr.Newf(fserr.NotExist, "profile", rec.Ref, "no version of the image has one")
	mine, err := source.ParseReference(rec.Ref)
	if err != nil {
		return nil, none
	}
	list, err := c.Profiles(ctx)
	if err != nil {
		return nil, err
	}
	layers := layersOf(rec)
	var best *imageRecord
	most, seen := int64(-1), 0
	for _, info := range list {
		ref, err := source.ParseReference(info.Ref)
		if err != nil || info.Manifest == rec.Manifest || ref.Host != mine.Host || ref.Repository != mine.Repository {
			continue
		}
		if seen++; seen > maxVersions {
			break
		}
		other, err := c.known(ctx, info.Manifest)
		if err != nil {
			continue
		}
		if n := sharedBytes(layers, other); n > most {
			best, most = other, n
		}
	}
	if best == nil {
		return nil, none
	}
	return best, nil
}

func layersOf(rec *imageRecord) map[estargz.Digest]bool {
	layers := map[estargz.Digest]bool{}
	for i := range rec.Layers {
		if d, err := parseDigest("layer", rec.Layers[i].Digest.String()); err == nil {
			layers[d] = true
		}
	}
	return layers
}

func sharedBytes(layers map[estargz.Digest]bool, rec *imageRecord) (n int64) {
	for i := range rec.Layers {
		if d, err := parseDigest("layer", rec.Layers[i].Digest.String()); err == nil && layers[d] {
			n += rec.Layers[i].Size
		}
	}
	return n
}

// findFiles finds out which files the entries were of whose layers are gone. Only
// indexes that are here are opened.
func (p *previous) findFiles(ctx context.Context, c *Catalog, old *imageRecord) {
	wants, err := old.wants()
	if err != nil {
		return
	}
	var layers []*Layer
	defer func() { c.release(layers...) }()
	for _, w := range wants {
		if p.kept[w.digest] || !c.hasIndex(ctx, w) {
			continue
		}
		l, err := c.acquire(ctx, w)
		if err != nil {
			c.log.Debug("a layer of the image's other version is not opened", zap.Stringer("layer", w.digest), zap.Error(err))
			continue
		}
		layers = append(layers, l)
	}
	views := make([]profile.View, len(layers))
	for i, l := range layers {
		views[i] = l.view()
	}
	for _, w := range p.profile.Gone(p.kept).Locate(views) {
		if len(p.files) >= maxMoved {
			return
		}
		x := layers[w.View].index
		chunk, ok := x.Chunk(w.Chunk)
		if _, known := p.files[w.Entry]; known || !ok {
			continue
		}
		if name, err := x.Path(x.ChunkNode(w.Chunk)); err == nil {
			p.files[w.Entry] = moved{path: name, offset: uint64(chunk.Offset), size: uint64(chunk.Size)}
		}
	}
}

// wants finds what a layer has of the entries whose layers are gone: the same content,
// or else the same part of the file with the same name.
func (p *previous) wants(l *Layer) []profile.Want {
	views := []profile.View{l.view()}
	return p.profile.Gone(p.kept).ResolveElse(views, func(entry int) []profile.Want {
		f, ok := p.files[entry]
		if !ok {
			return nil
		}
		return chunksAt(l.index, f)
	})
}

// chunksAt finds the chunks of a layer that hold a part of a file.
func chunksAt(x *layerindex.Index, f moved) []profile.Want {
	content, ok := contentOf(x, f.path)
	if !ok || f.offset >= content.Size {
		return nil
	}
	var wants []profile.Want
	for off := f.offset; off < min(f.offset+f.size, content.Size); {
		i := x.FindChunk(content, off)
		c, ok := x.Chunk(i)
		if !ok || c.Size <= 0 {
			break
		}
		wants = append(wants, profile.Want{Chunk: i})
		off = uint64(c.Offset + c.Size)
	}
	return wants
}
