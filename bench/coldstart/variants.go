package main

import (
	"context"

	"github.com/nineply/nineply/internal/coldstart"
	"github.com/nineply/nineply/internal/convert"
)

// variant is one way to start the container.
type variant struct {
	name        string
	snapshotter string
	// config is TOML for the daemon.
	config string
	// image makes the image in the registry, once for all runs, and gives its tag.
	// It is told the tag of the image that was pushed as it is.
	image func(ctx context.Context, b *bench, plain string) (tag string, err error)
	// before is called in each run when daemon and containerd are there, and
	// nothing was asked of the registry; nil: nothing is done.
	before func(ctx context.Context, r *run) error
	// after is called when the container has ended, and its daemon still runs; nil:
	// nothing is done. What a run learned for others is fetched here: image may make
	// a run of its own, which does not count, with [bench.run].
	after func(ctx context.Context, r *run) error
	// single has the registry know one range for a request, as many do.
	single bool
	// bars are what a value may be at most, by unit.
	bars map[string]float64

	tag string // what image gave
}

// variants lists what is compared, in the order of each round.
func variants() []variant {
	return []variant{
		{name: "overlayfs", snapshotter: "overlayfs", image: asItIs},
		{name: "lazy", snapshotter: "nineply", image: converted("lazy", convert.Options{})},
		profiled("profile", false, profileBars()),
		profiled("profile-single-ranges", true, singleBars()),
		landmark(),
		orderedProfile(),
		updated("updated", "[profiles]\nuse = false\n", nil),
		updated("updated-profile", "", profileBars()),
	}
}

// asItIs pulls what everybody else pulls.
func asItIs(_ context.Context, _ *bench, plain string) (string, error) { return plain, nil }

// converted has the image in another form.
func converted(tag string, opts convert.Options) func(context.Context, *bench, string) (string, error) {
	return func(ctx context.Context, b *bench, plain string) (string, error) {
		return tag, b.convert(ctx, plain, tag, opts)
	}
}

func (v *variant) prepare(ctx context.Context, b *bench) (err error) {
	v.tag, err = v.image(ctx, b, plainTag)
	return err
}

func (v *variant) spec(r *run) coldstart.Spec {
	return coldstart.Spec{Address: r.socket, Snapshotter: v.snapshotter, Ref: r.ref, PlainHTTP: true}
}
