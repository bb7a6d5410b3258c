package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// pusher writes to one layout directory.
type pusher struct{ path string }

var _ source.Untagger = (*pusher)(nil)

// Pusher implements [source.PushTarget]. A directory is made if it does not
// exist. An archive appears, or takes the place of the one that was there, with
// Commit; what the old one had in it is kept.
func (l *Layout) Pusher(_ context.Context, ref string) (source.Pusher, error) {
	parsed, err := ParseReference(ref)
	if err != nil {
		return nil, err
	}
	if parsed.Archive {
		return newArchivePusher(parsed.Path)
	}
	p := &pusher{path: parsed.Path}
	if err := p.prepare(); err != nil {
		return nil, err
	}
	return p, nil
}

// failure names the directory and keeps the kind of a full disk.
func (p *pusher) failure(op, what string, err error) error {
	kind := fserr.KindOf(err)
	if kind == fserr.Internal {
		kind = fserr.Unavailable
	}
	return fserr.New(kind, op, source.LayoutPrefix+p.path+" "+what, err)
}

// prepare makes what a layout must have.
func (p *pusher) prepare() error {
	if err := os.MkdirAll(filepath.Join(p.path, ocispec.ImageBlobsDir), 0o755); err != nil {
		return p.failure("prepare", "", err)
	}
	return p.locked(func() error {
		marker := filepath.Join(p.path, ocispec.ImageLayoutFile)
		if _, err := os.Stat(marker); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, err := p.readIndex(); err != nil {
			return err
		}
		data, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
		if err != nil {
			return fmt.Errorf("encode layout marker: %w", err)
		}
		return renameio.WriteFile(marker, data, 0o644)
	})
}

// locked runs f while no other writer of the layout does, in this process or
// another.
func (p *pusher) locked(f func() error) error {
	dir, err := os.Open(p.path)
	if err != nil {
		return p.failure("lock", "", err)
	}
	defer func() { _ = dir.Close() }() // ends the lock
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return p.failure("lock", "", err)
	}
	if err := f(); err != nil {
		return p.failure("write", "", err)
	}
	return nil
}

// PushBlob implements [source.Pusher].
func (p *pusher) PushBlob(ctx context.Context, desc ocispec.Descriptor, open func() (io.ReadCloser, error)) error {
	if err := source.CheckDigest(desc.Digest); err != nil {
		return err
	}
	if desc.Size < 0 {
		return fserr.Newf(fserr.Invalid, "push", desc.Digest.String(), "negative size")
	}
	path := filepath.Join(p.path, filepath.FromSlash(blobPath(desc.Digest)))
	if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Size() == desc.Size {
		return nil
	}
	rc, err := open()
	if err != nil {
		return p.failure("push", desc.Digest.String(), fmt.Errorf("open content: %w", err))
	}
	err = p.write(ctx, path, source.Verified(rc, desc.Digest, desc.Size))
	if cerr := rc.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close content: %w", cerr)
	}
	if err != nil {
		return p.failure("push", desc.Digest.String(), err)
	}
	return nil
}

// write stores content under its final name only when all of it is there.
func (p *pusher) write(ctx context.Context, path string, content io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	t, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o644), renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	defer func() {
		// After success there is nothing left to clean up.
		if cerr := t.Cleanup(); err == nil && cerr != nil {
			err = cerr
		}
	}()
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := content.Read(buf)
		if n > 0 {
			if _, err := t.Write(buf[:n]); err != nil {
				return fmt.Errorf("write file: %w", err)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	return t.CloseAtomicallyReplace()
}

// PushManifest implements [source.Pusher]. With a tag, index.json gets an entry
// for it in place of the one that had the tag; without, only the blob is
// written.
func (p *pusher) PushManifest(ctx context.Context, target, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if len(data) > source.MaxManifestBytes {
		return desc, fserr.Newf(fserr.TooLarge, "push", desc.Digest.String(), "%d bytes, at most %d are allowed", len(data), source.MaxManifestBytes)
	}
	tag, err := tagFor(Reference{Path: p.path}, target, desc.Digest)
	if err != nil {
		return desc, err
	}
	err = p.PushBlob(ctx, desc, func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(data))), nil
	})
	if err != nil || tag == "" {
		return desc, err
	}
	return desc, p.locked(func() error { return p.enter(desc, tag) })
}

// tagFor reads what PushManifest was given: a tag, a whole reference into the
// layout at, or nothing.
func tagFor(at Reference, target string, d digest.Digest) (string, error) {
	if target == "" || target == d.String() {
		return "", nil
	}
	if !source.IsLayout(target) {
		at.Tag = target
		target = at.String()
	}
	ref, err := ParseReference(target)
	switch {
	case err != nil:
		return "", err
	case ref.Archive != at.Archive, ref.Path != at.Path:
		return "", fserr.Newf(fserr.Invalid, "push", target, "not in %s", at)
	case ref.Digest != "" && ref.Digest != d:
		return "", fserr.Newf(fserr.Invalid, "push", target, "the manifest's digest is %s", d)
	case ref.Digest != "":
		return "", nil
	case ref.Tag == "":
		return "latest", nil
	}
	return ref.Tag, nil
}

// Untag implements [source.Untagger]. The blobs stay.
func (p *pusher) Untag(_ context.Context, target string) error {
	tag, err := tagFor(Reference{Path: p.path}, target, "")
	if err != nil {
		return err
	}
	return p.locked(func() error {
		index, err := p.readIndex()
		if err != nil {
			return err
		}
		removeTag(index, tag)
		return p.writeIndex(index)
	})
}

// removeTag takes the entries of a tag out of an index.
func removeTag(index *ocispec.Index, tag string) {
	index.Manifests = slices.DeleteFunc(index.Manifests, func(e ocispec.Descriptor) bool {
		return e.Annotations[ocispec.AnnotationRefName] == tag
	})
}

// addTag gives a tag to desc in an index.
func addTag(index *ocispec.Index, desc ocispec.Descriptor, tag string) {
	removeTag(index, tag)
	desc.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	index.Manifests = append(index.Manifests, desc)
}

// enter puts an entry into index.json; the directory is locked.
func (p *pusher) enter(desc ocispec.Descriptor, tag string) error {
	index, err := p.readIndex()
	if err != nil {
		return err
	}
	addTag(index, desc, tag)
	return p.writeIndex(index)
}

// readIndex reads index.json, or makes an empty one; the directory is locked.
func (p *pusher) readIndex() (*ocispec.Index, error) {
	index := newIndex()
	o := objects{ref: Reference{Path: p.path}, store: directory{p.path}}
	err := o.decode(ocispec.ImageIndexFile, maxIndexBytes, index)
	if errors.Is(err, fs.ErrNotExist) {
		return index, p.writeIndex(index)
	}
	return index, err
}

func newIndex() *ocispec.Index {
	return &ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}
}

func (p *pusher) writeIndex(index *ocispec.Index) error {
	data, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("encode index: %w", err)
	}
	return renameio.WriteFile(filepath.Join(p.path, ocispec.ImageIndexFile), data, 0o644)
}
