package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"sync/atomic"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/layertar"
	"github.com/nineply/nineply/internal/source"
)

// stage converts layers into temporary files, each different one once.
type stage struct {
	opts   Options
	from   source.Reader
	layers []*layer
	byKey  map[layerKey]*layer
	done   atomic.Int64
}

// layerKey tells layers apart. One blob that two configs give different DiffIDs
// is two layers, of which one will fail.
type layerKey struct{ digest, diffID digest.Digest }

// layer is one layer on its way.
type layer struct {
	ref    string // of the image it was met in first
	name   string // what it is called in errors
	source ocispec.Descriptor
	diffID digest.Digest // as the source's config claims
	first  []string      // names of the files to come first

	reused bool
	file   *os.File // nil if reused
	out    ocispec.Descriptor
	newID  digest.Digest
	toc    []byte // external TOC
	absent []string
	front  front
}

func newStage(from source.Reader, opts Options) *stage {
	return &stage{opts: opts, from: from, byKey: map[layerKey]*layer{}}
}

// add gives the layer of an image, which may be that of another image too.
func (s *stage) add(img *source.Image, i int, desc ocispec.Descriptor) *layer {
	key := layerKey{desc.Digest, img.Config.RootFS.DiffIDs[i]}
	if l := s.byKey[key]; l != nil {
		s.order(l, img, i)
		return l
	}
	l := &layer{
		ref: img.Ref, source: desc, diffID: key.diffID,
		name: fmt.Sprintf("layer %d of %s (%s)", i+1, platforms.Format(img.Config.Platform), desc.Digest),
	}
	s.order(l, img, i)
	s.byKey[key] = l
	s.layers = append(s.layers, l)
	return l
}

// run converts all layers.
func (s *stage) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.opts.Parallel)
	for _, l := range s.layers {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := s.prepare(ctx, l); err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
			s.report(l, s.done.Add(1), false)
			return nil
		})
	}
	return g.Wait()
}

func (s *stage) report(l *layer, n int64, pushed bool) {
	if s.opts.Progress == nil {
		return
	}
	s.opts.Progress(Event{
		Index: int(n) - 1, Layers: len(s.layers), Source: l.source.Digest, Target: l.out.Digest,
		SourceSize: l.source.Size, NewSize: l.out.Size, Reused: l.reused, Pushed: pushed,
	})
}

// prepare converts a layer, unless it is what is wanted.
func (s *stage) prepare(ctx context.Context, l *layer) error {
	if strings.HasSuffix(l.source.MediaType, "+encrypted") {
		return fserr.Newf(fserr.Unsupported, "convert", "", "media type %s: encrypted layers cannot be read", l.source.MediaType)
	}
	if s.opts.Reusable != nil {
		reuse, err := s.opts.Reusable(ctx, l.ref, l.source)
		if err == nil && reuse {
			reuse, err = s.inOrder(ctx, l)
		}
		if err != nil {
			return err
		}
		if reuse {
			l.reused, l.out, l.newID = true, reusedDescriptor(l.source), l.diffID
			return nil
		}
	}
	return s.convert(ctx, l)
}

// reusedDescriptor is that of a layer that stays, under OCI's media type.
func reusedDescriptor(desc ocispec.Descriptor) ocispec.Descriptor {
	out := ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size, Annotations: desc.Annotations}
	switch {
	case strings.HasSuffix(desc.MediaType, "zstd"):
		out.MediaType = ocispec.MediaTypeImageLayerZstd
	case strings.HasSuffix(desc.MediaType, "gzip"):
		out.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	return out
}

func (s *stage) convert(ctx context.Context, l *layer) error {
	file, err := scratch(s.opts.TempDir)
	if err != nil {
		return err
	}
	l.file = file
	res, err := s.rewrite(ctx, l, file)
	if err != nil {
		return err
	}
	l.out = ocispec.Descriptor{
		MediaType: res.MediaType, Digest: toDigest(res.BlobDigest), Size: res.BlobSize,
		Annotations: maps.Clone(l.source.Annotations),
	}
	maps.DeleteFunc(l.out.Annotations, func(key, _ string) bool { return estargz.IsLayerAnnotation(key) })
	if l.out.Annotations == nil {
		l.out.Annotations = map[string]string{}
	}
	maps.Copy(l.out.Annotations, res.Annotations)
	l.newID, l.toc, l.absent = toDigest(res.DiffID), res.ExternalTOC, res.NotFound
	l.front = front{} // what the source had
	if len(l.first) > 0 {
		l.front, err = frontOf(file, res.BlobSize)
	}
	return err
}

// scratch makes a file without a name: it is gone when the process is, whatever
// ends it.
func scratch(dir string) (*os.File, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err == nil {
		return f, nil
	}
	// Not every file system can do that at once.
	if f, err = os.CreateTemp(dir, "nineply-layer-*"); err != nil {
		return nil, fmt.Errorf("temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("temporary file: %w", err), f.Close())
	}
	return f, nil
}

// rewrite streams one layer into w. The source blob is checked against its
// digest, and its tar against the DiffID of the config.
func (s *stage) rewrite(ctx context.Context, l *layer, w io.Writer) (estargz.Result, error) {
	blob, err := s.from.Blob(ctx, l.ref, l.source)
	if err != nil {
		return estargz.Result{}, err
	}
	rc, err := blob.Stream(ctx, 0)
	if err != nil {
		return estargz.Result{}, err
	}
	verified := source.Verified(rc, l.source.Digest, blob.Size())
	defer func() { _ = verified.Close() }() // read side; the digest decides
	stream, err := layertar.Open(verified)
	if err != nil {
		return estargz.Result{}, err
	}
	defer stream.Close()
	hash := digest.SHA256.Digester()
	tee := io.TeeReader(stream, hash.Hash())
	opts := s.opts.Writer
	opts.Prioritized = l.first
	zw := estargz.NewWriter(w, opts)
	if err := zw.AppendTar(ctx, tee); err != nil {
		_, cerr := zw.Close()
		_ = cerr // the tar's error is the cause of this one
		return estargz.Result{}, err
	}
	res, err := zw.Close()
	if err != nil {
		return estargz.Result{}, err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return estargz.Result{}, err
	}
	if err := stream.Drain(); err != nil {
		return estargz.Result{}, err
	}
	got := hash.Digest()
	if got != l.diffID {
		return estargz.Result{}, fserr.Newf(fserr.Corrupt, "verify", "", "its content has diff ID %s, the image's config says %s", got, l.diffID)
	}
	if s.opts.Writer.KeepDiffID && toDigest(res.DiffID) != got {
		return estargz.Result{}, fserr.Newf(fserr.Internal, "verify", "", "the new layer has diff ID %s instead of %s", res.DiffID, got)
	}
	return res, nil
}

// open starts reading what a layer became.
func (s *stage) open(ctx context.Context, l *layer) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		if !l.reused {
			return io.NopCloser(io.NewSectionReader(l.file, 0, l.out.Size)), nil
		}
		blob, err := s.from.Blob(ctx, l.ref, l.source)
		if err != nil {
			return nil, err
		}
		return blob.Stream(ctx, 0)
	}
}

// close gives the disk space back.
func (s *stage) close() error {
	var errs []error
	for _, l := range s.layers {
		if l.file != nil {
			errs = append(errs, l.file.Close())
		}
	}
	return errors.Join(errs...)
}

func toDigest(d estargz.Digest) digest.Digest { return digest.Digest(d.String()) }
