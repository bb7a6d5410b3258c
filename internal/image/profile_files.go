package image

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/profile"
	"github.com/nineply/nineply/layerindex"
)

// ProfileFile is a file of an image that its profile tells of.
type ProfileFile struct {
	Path   string        `json:"path"`  // without a slash in front
	Layer  int           `json:"layer"` // number in the manifest, bottom first
	Chunks int           `json:"chunks"`
	Bytes  int64         `json:"bytes"` // of those chunks
	At     time.Duration `json:"at"`    // of the first read
	Runs   int           `json:"runs"`  // of those remembered, that read it
	Usual  bool          `json:"usual"` // it is fetched in advance
}

// ProfileFiles lists the files that the profile of an image tells of, in the order
// of their first reads. The indexes of the image's layers are opened for that.
func (c *Catalog) ProfileFiles(ctx context.Context, name string) ([]ProfileFile, error) {
	p, info, err := c.Profile(ctx, name)
	if err != nil {
		return nil, err
	}
	layers, err := c.imageLayers(ctx, info.Manifest)
	if err != nil {
		return nil, err
	}
	defer c.release(layers...)
	views := make([]profile.View, len(layers))
	for i, l := range layers {
		views[i] = l.view()
	}
	var files []ProfileFile
	at := map[fileID]int{}
	for _, w := range p.Locate(views) {
		e, l := &p.Entries[w.Entry], layers[w.View]
		id := fileID{w.View, l.index.ChunkNode(w.Chunk)}
		n, ok := at[id]
		if !ok {
			n = len(files)
			at[id] = n
			files = append(files, ProfileFile{Path: pathOf(l.index, id.node), Layer: w.View, At: time.Duration(e.At) * time.Millisecond})
		}
		f := &files[n]
		f.Chunks++
		f.Runs = max(f.Runs, e.Count())
		f.Usual = f.Usual || p.Usual(e)
		if chunk, ok := l.index.Chunk(w.Chunk); ok {
			f.Bytes += chunk.Size
		}
	}
	return files, nil
}

type fileID struct {
	layer int
	node  layerindex.Ino
}

func pathOf(x *layerindex.Index, n layerindex.Ino) string {
	name, err := x.Path(n)
	if err != nil {
		return "?"
	}
	return strings.TrimPrefix(name, "/")
}

// ProfileRecords gives the order of files as stargz-snapshotter's tools take it.
func (c *Catalog) ProfileRecords(ctx context.Context, name string) ([]profile.Record, error) {
	_, info, err := c.Profile(ctx, name)
	if err != nil {
		return nil, err
	}
	files, err := c.ProfileFiles(ctx, name)
	if err != nil {
		return nil, err
	}
	var records []profile.Record
	for _, f := range files {
		if f.Usual {
			records = append(records, profile.Record{Path: f.Path, ManifestDigest: info.Manifest, LayerIndex: &f.Layer})
		}
	}
	return records, nil
}

// ImportRecords makes the profile of an image from an order of files, and replaces
// the one that is here. Files that the image does not have are skipped.
func (c *Catalog) ImportRecords(ctx context.Context, name string, records []profile.Record) (ProfileInfo, error) {
	rec, err := c.resolve(ctx, name)
	if err != nil {
		return ProfileInfo{}, err
	}
	layers, err := c.imageLayers(ctx, rec.Manifest)
	if err != nil {
		return ProfileInfo{}, err
	}
	defer c.release(layers...)
	views := make([]profile.View, len(layers))
	for i, l := range layers {
		views[i] = l.view()
	}
	var touches []profile.Touch
	for _, r := range records {
		if len(touches) < profile.MaxEntries && (r.ManifestDigest == "" || r.ManifestDigest == rec.Manifest) {
			touches = append(touches, touchesOf(layers, r)...)
		}
	}
	p, err := profile.Merge(nil, profile.NewRun(rec.manifestDigest(), views, touches))
	if err != nil {
		return ProfileInfo{}, fserr.New(fserr.Invalid, "import", name, err)
	}
	c.profileMu.Lock()
	defer c.profileMu.Unlock()
	if err := c.saveProfile(ctx, p, "list of files"); err != nil {
		return ProfileInfo{}, err
	}
	_, info, err := c.Profile(ctx, rec.Manifest)
	return info, err
}

// touchesOf finds the chunks of a file: in the layer that the record names, or the
// uppermost that has it.
func touchesOf(layers []*Layer, r profile.Record) []profile.Touch {
	for n := len(layers) - 1; n >= 0; n-- {
		if r.LayerIndex != nil && *r.LayerIndex != n {
			continue
		}
		content, ok := contentOf(layers[n].index, r.Path)
		if !ok {
			continue
		}
		var touches []profile.Touch
		for i := range content.Count {
			touches = append(touches, profile.Touch{Layer: n, Chunk: content.First + i})
		}
		return touches
	}
	return nil
}

func contentOf(x *layerindex.Index, name string) (layerindex.Content, bool) {
	n := layerindex.RootIno
	for part := range strings.SplitSeq(path.Clean("/" + name)[1:], "/") {
		var err error
		if n, err = x.Lookup(n, []byte(part)); err != nil {
			return layerindex.Content{}, false
		}
	}
	content, err := x.Content(n)
	return content, err == nil
}
