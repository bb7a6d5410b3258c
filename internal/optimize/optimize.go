package optimize

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// Options say what is done.
type Options struct {
	Source, Target string
	// Run, when not nil, is how the image is run to see what it reads.
	Run *Run
	// List, when not nil, is a profile or a list of files, in any of their formats.
	// Without Run and List the profile of the running daemon is used, or one that
	// lies beside the image.
	List []byte
	// Config says where the daemon that runs is, and how one of our own reaches
	// registries.
	Config config.Config
	// Private has the running daemon left alone.
	Private bool
	// Convert is what the layers become. Its Order is ours to set, and Reusable also
	// takes the order into account.
	Convert convert.Options
	// TempDir is where the container writes, and the converted layers lie.
	TempDir  string
	Log      *zap.Logger
	Progress func(words string) // may be nil
}

// Result says what was read, and what became of it.
type Result struct {
	convert.Result
	From       string   `json:"from"`       // what the order is from
	Files      int      `json:"files"`      // that were to come first
	BytesRead  int64    `json:"bytesRead"`  // of those files; 0: not known
	First      int      `json:"first"`      // files that come first, in all layers
	Prefetch   int64    `json:"prefetch"`   // bytes before the landmarks
	Rewritten  int      `json:"rewritten"`  // layers written anew
	Layers     int      `json:"layers"`     // different ones
	LargeFiles []string `json:"largeFiles"` // that stay where they are, for little of them was read
	Run        *Ran     `json:"run,omitempty"`
	// Records is the order, as ctr-remote --record-out writes it.
	Records []byte `json:"-"`
}

// job is one image on its way.
type job struct {
	opts Options
	img  *source.Image // that is run, and that records are of
	dir  string
}

func (j *job) say(format string, args ...any) {
	if j.opts.Progress != nil {
		j.opts.Progress(fmt.Sprintf(format, args...))
	}
}

// Images are the places that images come from and go to.
type Images interface {
	source.Reader
	source.PushTarget
}

// Optimize writes the image Source at Target, ordered by what a start of it reads.
func Optimize(ctx context.Context, images Images, o Options) (res Result, err error) {
	if tag, err := source.TagOf(o.Target); err != nil {
		return res, err
	} else if tag == "" {
		return res, fserr.Newf(fserr.Invalid, "optimize to", o.Target, "the target has a digest, which cannot be known yet: name a tag")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	j := &job{opts: o}
	if j.img, err = images.Resolve(ctx, o.Source, j.platform()); err != nil {
		return res, err
	}
	var remove func() error
	if j.dir, remove, err = workplace(o.TempDir); err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	f, err := j.record(ctx)
	if err != nil {
		return res, err
	}
	return j.write(ctx, images, f)
}

// platform is that of the image that is run, or whose profile is used: the one
// chosen, if it is one. A run needs this machine's.
func (j *job) platform() ocispec.Platform {
	if sel := j.opts.Convert.Select; len(sel.Platforms) == 1 && j.opts.Run == nil {
		return sel.Platforms[0]
	}
	return ocispec.Platform{}
}

// write converts the image with the order found.
func (j *job) write(ctx context.Context, images Images, f *found) (Result, error) {
	res := Result{From: f.from, Files: len(f.records), BytesRead: f.read, LargeFiles: f.large, Run: f.ran}
	if res.LargeFiles == nil {
		res.LargeFiles = []string{}
	}
	var err error
	if res.Records, err = recordText(f.records); err != nil {
		return res, err
	}
	opts := j.opts.Convert
	opts.TempDir, opts.Writer.TempDir = j.opts.TempDir, j.opts.TempDir
	foreign := false
	opts.Order = j.order(NewOrder(f.records), &foreign)
	j.say("writing %s with %d files first", j.opts.Target, len(f.records))
	if res.Result, err = convert.Convert(ctx, images, j.opts.Source, images, j.opts.Target, opts); err != nil {
		return res, err
	}
	res.Notes = append(res.Notes, f.notes...)
	if foreign {
		res.Notes = append(res.Notes, "what comes first was read of another image: files are found by their names in every layer")
	}
	res.count()
	return res, nil
}

// order gives the order of layers. What other images share with the one that was
// run is ordered as it is there: by what was read of that very layer.
func (j *job) order(o *Order, foreign *bool) func(*source.Image, int) []string {
	return func(img *source.Image, layer int) []string {
		if o.Names(img) || !o.Names(j.img) {
			*foreign = *foreign || !o.Names(img) && !o.images[""]
			return o.Layer(img, layer)
		}
		*foreign = true
		shared := img.Manifest.Layers[layer].Digest
		if i := slices.IndexFunc(j.img.Manifest.Layers, func(d ocispec.Descriptor) bool { return d.Digest == shared }); i >= 0 {
			return o.Layer(j.img, i)
		}
		return o.Layer(img, layer)
	}
}

// count adds up the layers, each once.
func (r *Result) count() {
	seen := map[string]bool{}
	for _, img := range r.Images {
		for _, l := range img.Layers {
			if key := l.SourceDigest.String() + l.Digest.String(); !seen[key] {
				seen[key] = true
				r.Layers++
				r.First += l.First
				r.Prefetch += l.Prefetch
				if !l.Reused {
					r.Rewritten++
				}
			}
		}
	}
}
