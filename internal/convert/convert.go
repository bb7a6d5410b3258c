package convert

import (
	"context"
	"errors"
	"fmt"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// Options tune a conversion. The zero value is what most users want.
type Options struct {
	// Select says which platforms to convert: one becomes an image, several or all
	// of them an index.
	Select source.Selection
	// KeepAttestations copies what an index says of its images, which is left out
	// by default: it is about the source's digests.
	KeepAttestations bool
	// Writer is what the layers become.
	Writer estargz.WriterOptions
	// Order, when not nil, gives the names of the files that come first in a layer,
	// by its number in the image's manifest, in the place of Writer.Prioritized. A
	// layer of several images has those of all of them. Layers that are Reusable are
	// copied only if they have that order already.
	Order func(img *source.Image, layer int) []string
	// Reusable, when not nil, is asked whether a layer already is what Writer would
	// make of it. Such a layer is copied.
	Reusable func(ctx context.Context, ref string, desc ocispec.Descriptor) (bool, error)
	// TempDir holds the converted layers until they are pushed; "": the system's.
	TempDir string
	// Parallel is how many layers are converted at once; 0: 2.
	Parallel int
	// Progress, when not nil, is called from several goroutines.
	Progress func(Event)
}

// Event reports one layer that is done with.
type Event struct {
	Index, Layers       int // which of how many; a layer of several platforms counts once
	Source, Target      digest.Digest
	SourceSize, NewSize int64
	Reused              bool // it was what was wanted already
	Pushed              bool // it is at the target; else it has been converted
}

// Result says what was written, and how that differs from the source.
type Result struct {
	Ref          string        `json:"ref"`
	MediaType    string        `json:"mediaType"`
	SourceDigest digest.Digest `json:"sourceDigest"` // of what the source's reference named
	Digest       digest.Digest `json:"digest"`
	SourceSize   int64         `json:"sourceSize"` // of all layers, bytes; a layer of several images counts once
	Size         int64         `json:"size"`
	Images       []ImageResult `json:"images"`
	// TOCRef names the image of the external TOCs, if there is one.
	TOCRef    string        `json:"tocRef,omitempty"`
	TOCDigest digest.Digest `json:"tocDigest,omitempty"`
	// NotFound are prioritized names that no layer of any image has.
	NotFound []string `json:"notFound,omitempty"`
	// Notes say in words what did not carry over.
	Notes []string `json:"notes"`
}

// ImageResult is one platform of a Result.
type ImageResult struct {
	Platform     string        `json:"platform"`
	SourceDigest digest.Digest `json:"sourceDigest"` // of the manifest
	Digest       digest.Digest `json:"digest"`
	SameConfig   bool          `json:"sameConfig"` // the image ID stayed
	Layers       []LayerResult `json:"layers"`
}

// LayerResult is one layer of an ImageResult.
type LayerResult struct {
	SourceDigest digest.Digest `json:"sourceDigest"`
	Digest       digest.Digest `json:"digest"`
	DiffID       digest.Digest `json:"diffID"`
	SourceSize   int64         `json:"sourceSize"`
	Size         int64         `json:"size"`
	Reused       bool          `json:"reused,omitempty"`
	// First is how many files come first because they were asked for, and Prefetch
	// the bytes up to where they end.
	First    int   `json:"first,omitempty"`
	Prefetch int64 `json:"prefetch,omitempty"`
}

// job is one conversion under way.
type job struct {
	opts   Options
	from   source.Reader
	to     source.Pusher
	dst    source.PushTarget
	dstRef string
	family *source.Family
	images []*picture
	aside  []source.Member // to be copied as they are
	stage  *stage
	notes  []string
}

// picture is one image of the family.
type picture struct {
	member source.Member
	layers []*layer
	config []byte
	text   []byte // the manifest
	desc   ocispec.Descriptor
}

// Convert reads srcRef from src, and writes it to dstRef at dst.
func Convert(ctx context.Context, src source.Reader, srcRef string, dst source.PushTarget, dstRef string, opts Options) (res Result, err error) {
	if opts.Parallel < 1 {
		opts.Parallel = 2
	}
	if tag, err := source.TagOf(dstRef); err != nil {
		return Result{}, err
	} else if tag == "" {
		return Result{}, fserr.Newf(fserr.Invalid, "convert to", dstRef, "the target has a digest, which cannot be known yet: name a tag")
	}
	family, err := source.ResolveFamily(ctx, src, srcRef, opts.Select)
	if err != nil {
		return Result{}, err
	}
	j := &job{opts: opts, from: src, dst: dst, dstRef: dstRef, family: family, stage: newStage(src, opts)}
	defer func() { err = errors.Join(err, j.stage.close()) }()
	if err := j.plan(); err != nil {
		return Result{}, err
	}
	if err := j.stage.run(ctx); err != nil {
		return Result{}, fmt.Errorf("converting %s: %w", srcRef, err)
	}
	if j.to, err = dst.Pusher(ctx, dstRef); err != nil {
		return Result{}, err
	}
	if p, ok := j.to.(source.Unpinner); ok {
		defer func() { err = errors.Join(err, p.Close()) }()
	}
	if p, ok := j.to.(source.Mounter); ok {
		p.MountFrom(family.Ref)
	}
	return j.publish(ctx)
}

// plan sorts the family into what is converted, copied and left out.
func (j *job) plan() error {
	images := map[digest.Digest]bool{}
	for _, m := range j.family.Members {
		if m.Image == nil {
			continue
		}
		p := &picture{member: m}
		for i, desc := range m.Image.Manifest.Layers {
			p.layers = append(p.layers, j.stage.add(m.Image, i, desc))
		}
		j.images = append(j.images, p)
		images[m.Descriptor.Digest] = true
	}
	if len(j.images) == 0 {
		return fserr.Newf(fserr.Invalid, "convert", j.family.Ref, "nothing in it is the image of a container")
	}
	left := 0
	for _, m := range j.family.Members {
		switch {
		case m.Image != nil:
		case m.About != "" && images[m.About] && j.opts.KeepAttestations:
			j.aside = append(j.aside, m)
		case m.About != "":
			left++
		default:
			j.notes = append(j.notes, fmt.Sprintf("left out: %s, which is no image of a container", m.Descriptor.Digest))
		}
	}
	if left > 0 {
		j.notes = append(j.notes, fmt.Sprintf("left out: %d attestations, which are about the source's digests", left))
	}
	if len(j.aside) > 0 {
		j.notes = append(j.notes, fmt.Sprintf("kept: %d attestations; what they state is about the source's digests", len(j.aside)))
	}
	return nil
}
