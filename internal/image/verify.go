package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/platforms"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxProblems is how many problems of one layer are told; the others are counted.
const maxProblems = 32

// Verdict is what came of verifying one platform of an image.
type Verdict struct {
	Ref      string         `json:"ref"`
	Digest   string         `json:"digest"` // of the platform's manifest
	Platform string         `json:"platform"`
	OK       bool           `json:"ok"`
	Layers   []LayerVerdict `json:"layers"`
}

// LayerVerdict is what came of verifying one layer.
type LayerVerdict struct {
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"` // of the blob, bytes
	OK        bool   `json:"ok"`
	// TOC: the manifest vouches for a table of contents, which was held against the
	// blob's bytes and against the tar in it.
	TOC     bool   `json:"toc"`
	Format  string `json:"format,omitempty"`
	Dialect string `json:"dialect,omitempty"`
	DiffID  string `json:"diffID,omitempty"` // computed
	Entries int    `json:"entries"`          // of the tar
	Chunks  int    `json:"chunks"`           // whose digest was computed
	Bytes   int64  `json:"bytes"`            // of the tar
	// Problems name the chunk, file or digest that is wrong; MoreProblems counts
	// those that are not listed.
	Problems     []string `json:"problems,omitempty"`
	MoreProblems int      `json:"moreProblems,omitempty"`
}

// Verify reads every byte of an image's layers, for all the platforms selected:
// the digests of blobs, tars, TOCs and chunks are computed, and each TOC is
// compared with the tar it describes. What is wrong with the bytes is in the
// verdicts; an error says that the source could not be read. Layers are read one
// after the other and once, each as a stream. done, which may be nil, is told of
// each layer.
func Verify(ctx context.Context, src source.Reader, ref string, sel source.Selection, done func(LayerVerdict)) ([]*Verdict, error) {
	images, err := imagesOf(ctx, src, ref, sel)
	if err != nil {
		return nil, err
	}
	type key struct{ layer, diffID digest.Digest }
	known := map[key]LayerVerdict{}
	var verdicts []*Verdict
	for _, img := range images {
		v := &Verdict{Ref: img.Ref, Digest: img.Digest.String(), Platform: platforms.Format(img.Config.Platform), OK: true}
		for i, desc := range img.Manifest.Layers {
			k := key{desc.Digest, img.Config.RootFS.DiffIDs[i]}
			l, ok := known[k]
			if !ok {
				if l, err = verifyLayer(ctx, src, img.Ref, desc, k.diffID); err != nil {
					return nil, fmt.Errorf("layer %d of %s (%s): %w", i+1, v.Platform, desc.Digest, err)
				}
				known[k] = l
				if done != nil {
					done(l)
				}
			}
			v.Layers = append(v.Layers, l)
			v.OK = v.OK && l.OK
		}
		verdicts = append(verdicts, v)
	}
	return verdicts, nil
}

// verification is one layer being verified.
type verification struct {
	mu      sync.Mutex
	verdict LayerVerdict
	toc     *tableOfContents // nil if there is none to hold the layer against
}

// tableOfContents is a TOC that is as the manifest says.
type tableOfContents struct {
	packed []byte
	footer estargz.Footer
}

// each calls fn for each entry; fn's error ends it.
func (t *tableOfContents) each(fn func(*estargz.Entry) error) error {
	_, err := estargz.ReadTOC(t.packed, t.footer, estargz.DefaultLimits(), fn)
	return err
}

// problem notes something wrong with the bytes.
func (v *verification) problem(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.verdict.Problems) >= maxProblems {
		v.verdict.MoreProblems++
		return
	}
	v.verdict.Problems = append(v.verdict.Problems, fmt.Sprintf(format, args...))
}

func verifyLayer(ctx context.Context, src source.Repository, ref string, desc ocispec.Descriptor, diffID digest.Digest) (LayerVerdict, error) {
	v := &verification{verdict: LayerVerdict{
		Digest: desc.Digest.String(), MediaType: desc.MediaType, Size: desc.Size, Format: compression(desc.MediaType),
	}}
	if err := v.findTOC(ctx, src, ref, desc); err != nil {
		return v.verdict, err
	}
	blob, err := src.Blob(ctx, ref, desc)
	if err != nil {
		return v.verdict, err
	}
	rc, err := blob.Stream(ctx, 0)
	if err != nil {
		return v.verdict, err
	}
	checked := source.Verified(rc, desc.Digest, blob.Size())
	err = v.read(checked, diffID)
	if cerr := checked.Close(); err == nil {
		err = cerr
	}
	v.verdict.OK = len(v.verdict.Problems) == 0
	return v.verdict, err
}

// findTOC reads the TOC that the manifest vouches for, if any.
func (v *verification) findTOC(ctx context.Context, src source.Repository, ref string, desc ocispec.Descriptor) error {
	claim, err := estargz.ClaimOf(desc.Annotations)
	if err != nil {
		v.problem("TOC: %v", err)
		return nil
	}
	if claim.None() {
		return nil
	}
	var l LayerReport
	t, err := l.request(ctx, src, ref, desc, claim)
	if err != nil {
		return err
	}
	packed, footer, err := t.fetch(ctx)
	if err == nil {
		err = l.count(packed, footer, claim)
	}
	if err != nil {
		switch fserr.KindOf(err) {
		case fserr.Corrupt, fserr.TooLarge, fserr.Unsupported:
			v.problem("TOC: %v", err)
			return nil
		}
		return err
	}
	l.named(footer, desc)
	v.verdict.TOC, v.verdict.Format, v.verdict.Dialect = true, l.Format, l.Dialect
	v.toc = &tableOfContents{packed, footer}
	return nil
}

// read passes the blob once, at the same time, to a reader of its tar and to one
// of its chunks.
func (v *verification) read(blob io.Reader, diffID digest.Digest) error {
	consumers := []func(io.Reader) error{func(r io.Reader) error { return v.readTar(r, diffID) }}
	if v.toc != nil {
		consumers = append(consumers, v.readChunks)
	}
	var wg sync.WaitGroup
	var pipes []*io.PipeWriter
	var writers []io.Writer
	errs := make([]error, len(consumers))
	for i, consume := range consumers {
		pr, pw := io.Pipe()
		pipes, writers = append(pipes, pw), append(writers, pw)
		wg.Go(func() {
			errs[i] = consume(pr)
			// One that has seen enough must not hold up the others.
			_, derr := io.Copy(io.Discard, pr)
			_ = derr // the source's error, which is known where it is made
		})
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(writers...)}, struct{ io.Reader }{blob}, make([]byte, 256<<10))
	if fserr.Is(err, fserr.Corrupt) {
		v.problem("blob: %v", err)
		err = nil
	}
	for _, pw := range pipes {
		_ = pw.CloseWithError(err) // never fails; nil is the end
	}
	wg.Wait()
	if err != nil {
		return err
	}
	return errors.Join(errs...)
}
