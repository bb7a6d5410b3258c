package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// maxIndexBytes bounds index.json, which lists all images of a layout.
const maxIndexBytes = 16 << 20

// annotationImageName is what containerd and docker write beside the tag: the
// full name of the image.
const annotationImageName = "io.containerd.image.name"

// Layout is the source for references to image layouts on disk. The zero value
// is ready; it is safe for concurrent use.
type Layout struct {
	mu       sync.Mutex
	archives map[string]*archive
}

var _ source.Backend = (*Layout)(nil)

// New makes a Layout.
func New() *Layout { return &Layout{} }

// store is a layout opened for reading.
type store interface {
	// open opens a file by its slash-separated path within the layout.
	open(name string) (file, error)
}

// file is an open file of a layout.
type file interface {
	io.ReaderAt
	io.Closer
	size() int64
}

func (l *Layout) store(ref Reference) (store, error) {
	if ref.Archive {
		return l.archive(ref)
	}
	return directory{ref.Path}, nil
}

func blobPath(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// openFailure names what could not be opened.
func openFailure(object string, err error) error {
	kind := fserr.Unavailable
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind = fserr.NotExist
	case errors.Is(err, fs.ErrPermission):
		kind = fserr.Unauthorized
	}
	return fserr.New(kind, "open", object, err)
}

// Resolve implements [source.Repository].
func (l *Layout) Resolve(ctx context.Context, ref string, platform ocispec.Platform) (*source.Image, error) {
	o, err := l.objects(ref)
	if err != nil {
		return nil, err
	}
	return source.ResolveImage(ctx, o.ref.String(), o, platform)
}

// FetchManifest implements [source.Fetcher].
func (l *Layout) FetchManifest(ctx context.Context, ref string) (ocispec.Descriptor, []byte, error) {
	o, err := l.objects(ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return o.Top(ctx)
}

// objects reads the small things of one layout.
type objects struct {
	ref   Reference
	store store
}

func (l *Layout) objects(ref string) (objects, error) {
	parsed, err := ParseReference(ref)
	if err != nil {
		return objects{}, err
	}
	s, err := l.store(parsed)
	return objects{ref: parsed, store: s}, err
}

// Top implements [source.Objects].
func (o objects) Top(_ context.Context) (ocispec.Descriptor, []byte, error) {
	var none ocispec.Descriptor
	desc := ocispec.Descriptor{Digest: o.ref.Digest, Size: -1}
	if o.ref.Digest == "" {
		index, err := o.index()
		if err != nil {
			return none, nil, err
		}
		if desc, err = o.choose(index.Manifests); err != nil {
			return none, nil, err
		}
		if err := source.CheckDigest(desc.Digest); err != nil {
			return none, nil, fserr.New(fserr.Corrupt, "read index of", o.ref.String(), err)
		}
	}
	data, err := o.read(desc, source.MaxManifestBytes)
	if err != nil {
		return none, nil, err
	}
	desc.Size = int64(len(data))
	desc.MediaType = source.ManifestType(desc.MediaType, data)
	return desc, data, nil
}

// Manifest implements [source.Objects].
func (o objects) Manifest(_ context.Context, desc ocispec.Descriptor) ([]byte, error) {
	return o.read(desc, source.MaxManifestBytes)
}

// Config implements [source.Objects].
func (o objects) Config(_ context.Context, desc ocispec.Descriptor) ([]byte, error) {
	return o.read(desc, source.MaxConfigBytes)
}

// index reads index.json, after making sure that this is a layout.
func (o objects) index() (*ocispec.Index, error) {
	var marker ocispec.ImageLayout
	if err := o.decode(ocispec.ImageLayoutFile, 4096, &marker); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(marker.Version, "1.") {
		return nil, fserr.Newf(fserr.Unsupported, "read", o.ref.String(), "image layout version %q", marker.Version)
	}
	var index ocispec.Index
	if err := o.decode(ocispec.ImageIndexFile, maxIndexBytes, &index); err != nil {
		return nil, err
	}
	return &index, nil
}

func (o objects) decode(name string, limit int64, v any) error {
	object := o.ref.String() + " " + name
	f, err := o.store.open(name)
	if err != nil {
		return openFailure(object, err)
	}
	defer func() { _ = f.Close() }() // only read from
	if f.size() > limit {
		return fserr.Newf(fserr.TooLarge, "read", object, "%d bytes, at most %d are read", f.size(), limit)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, f.size()))
	if err != nil {
		return fserr.New(fserr.Unavailable, "read", object, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fserr.New(fserr.Corrupt, "decode", object, err)
	}
	return nil
}

// choose picks the entry of index.json that the reference names.
func (o objects) choose(entries []ocispec.Descriptor) (ocispec.Descriptor, error) {
	if o.ref.Tag == "" && len(entries) == 1 {
		return entries[0], nil
	}
	tag := o.ref.Tag
	if tag == "" {
		tag = "latest"
	}
	for _, e := range entries {
		if named(e, tag) {
			return e, nil
		}
	}
	if o.ref.Tag == "" {
		return ocispec.Descriptor{}, fserr.Newf(fserr.Invalid, "resolve", o.ref.String(), "%d images in the layout and none tagged latest: say which", len(entries))
	}
	return ocispec.Descriptor{}, fserr.Newf(fserr.NotExist, "resolve", o.ref.String(), "no such tag in index.json")
}

// named reports whether an entry carries the tag, alone or at the end of a full
// name.
func named(e ocispec.Descriptor, tag string) bool {
	name := e.Annotations[ocispec.AnnotationRefName]
	if name == tag {
		return true
	}
	for _, full := range []string{name, e.Annotations[annotationImageName]} {
		if ref, err := source.ParseReference(full); err == nil && strings.Contains(full, "/") && ref.Tag == tag {
			return true
		}
	}
	return false
}

// read reads a blob whole. A negative size means the file's.
func (o objects) read(desc ocispec.Descriptor, limit int64) ([]byte, error) {
	object := o.ref.String() + " blob " + desc.Digest.String()
	f, err := o.store.open(blobPath(desc.Digest))
	if err != nil {
		return nil, openFailure(object, err)
	}
	if desc.Size < 0 {
		desc.Size = f.size()
	}
	rc := struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, 0, max(f.size(), 0)), f}
	data, err := source.ReadObject(rc, desc, limit)
	if err != nil {
		return nil, fserr.New(fserr.KindOf(err), "read", object, err)
	}
	return data, nil
}

// Blob implements [source.Repository].
func (l *Layout) Blob(_ context.Context, ref string, desc ocispec.Descriptor) (source.Blob, error) {
	o, err := l.objects(ref)
	if err != nil {
		return nil, err
	}
	if err := source.CheckDigest(desc.Digest); err != nil {
		return nil, err
	}
	b := &blob{store: o.store, object: fmt.Sprintf("%s blob %s", o.ref, desc.Digest), path: blobPath(desc.Digest), length: desc.Size}
	switch {
	case desc.Size < 0:
		return nil, fserr.Newf(fserr.Invalid, "open", b.object, "negative size")
	case desc.Size == 0 && desc.Digest != desc.Digest.Algorithm().FromBytes(nil):
		f, err := b.store.open(b.path)
		if err != nil {
			return nil, openFailure(b.object, err)
		}
		b.length = f.size()
		_ = f.Close() // nothing was written
	}
	return b, nil
}
