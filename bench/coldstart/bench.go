package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/coldstart"
	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/daemon"
	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/internal/netshape"
	"github.com/nineply/nineply/internal/testbed"
)

const (
	repository = "demo"
	plainTag   = "plain"
)

// bench is what all runs share: the registry, and the network before it.
type bench struct {
	settings settings
	bed      *testbed.Bed
	recorder *testbed.Recorder
	network  *netshape.Proxy
	sources  *daemon.SourceSet // for what is prepared, not over the network
	places   places
	updated  bool // the next version of the image was pushed
}

func newBench(ctx context.Context, s settings) (b *bench, err error) {
	if err := testbed.Require("containerd", "runc", "docker-registry", "debootstrap", "skopeo"); err != nil {
		return nil, err
	}
	bed, err := testbed.New("coldstart")
	if err != nil {
		return nil, err
	}
	b = &bench{settings: s, bed: bed, places: places{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	addr, err := bed.StartRegistry(ctx)
	if err != nil {
		return nil, err
	}
	if b.recorder, err = bed.StartRecorder(ctx, addr); err != nil {
		return nil, err
	}
	b.network, err = netshape.Listen(ctx, "127.0.0.1:0", b.recorder.Addr, netshape.Shape{
		RoundTrip: s.rtt, BytesPerSecond: int64(s.rate),
	})
	if err != nil {
		return nil, err
	}
	bed.OnClose(b.network.Close)
	b.sources = daemon.Sources(config.Default(bed.Dir, bed.Dir))
	bed.OnClose(b.sources.Close)
	im, err := demoimage.Build(ctx, demoimage.Options{Progress: say})
	if err != nil {
		return nil, err
	}
	return b, im.Push(ctx, b.near(plainTag))
}

func (b *bench) close() error { return b.bed.Close() }

func say(words string) { fmt.Fprintln(os.Stderr, words) }

// near is the reference of a tag without the network between.
func (b *bench) near(tag string) string { return b.recorder.Addr + "/" + repository + ":" + tag }

// far is the reference of a tag over the network.
func (b *bench) far(tag string) string { return b.network.Addr() + "/" + repository + ":" + tag }

// convert makes an image of another form of an image in the registry.
func (b *bench) convert(ctx context.Context, from, to string, opts convert.Options) error {
	say("converting the image to " + to)
	opts.TempDir = b.bed.Dir
	if _, err := convert.Convert(ctx, b.sources, b.near(from), b.sources, b.near(to), opts); err != nil {
		return err
	}
	im, err := b.sources.Resolve(ctx, b.near(to), ocispec.Platform{})
	if err != nil {
		return err
	}
	return b.places.add(ctx, b.sources, im)
}

// run is one cold start: a daemon, a containerd, and nothing in them.
type run struct {
	bed    *testbed.Bed
	daemon testbed.Daemon
	client *control.Client
	socket string // containerd's
	ref    string // of the image to start, over the network
	bench  *bench
}

// start starts another image than the one that counts.
func (r *run) start(ctx context.Context, snapshotter, ref string) (coldstart.Result, error) {
	return coldstart.Run(ctx, coldstart.Spec{Address: r.socket, Snapshotter: snapshotter, Ref: ref, PlainHTTP: true, Keep: true})
}

// run makes one cold start of a variant.
func (b *bench) run(ctx context.Context, v *variant, number int) (o outcome, err error) {
	bed, err := testbed.New("run")
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	if b.settings.logs != "" {
		bed.OnClose(func() error { return keepLog(bed, b.settings.logs, fmt.Sprintf("%s-%d.log", v.name, number)) })
	}
	r := &run{bed: bed, ref: b.far(v.tag), bench: b}
	if r.daemon, err = bed.StartDaemon(ctx, b.settings.program, v.config); err != nil {
		return o, err
	}
	r.client = control.NewClient(r.daemon.Control)
	defer r.client.Close()
	if r.socket, err = bed.StartContainerd(ctx, r.daemon); err != nil {
		return o, err
	}
	if v.before != nil {
		if err := v.before(ctx, r); err != nil {
			return o, err
		}
	}
	if o, err = b.start(ctx, v, r); err != nil || v.after == nil {
		return o, err
	}
	return o, v.after(ctx, r)
}

// keepLog keeps the daemon's log beyond its run.
func keepLog(bed *testbed.Bed, dir, name string) error {
	text, err := os.ReadFile(filepath.Join(bed.Dir, "daemon.log"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), text, 0o600)
}

// start starts the container. What counts is what happened up to the first line.
func (b *bench) start(ctx context.Context, v *variant, r *run) (o outcome, err error) {
	b.recorder.Reset()
	b.recorder.SingleRanges(v.single)
	conns := b.network.Stats().Conns
	var serr error
	spec := v.spec(r)
	spec.AtLine = func() {
		o.line = time.Now()
		o.requests = b.recorder.Requests()
		o.conns = b.network.Stats().Conns - conns
		o.status, serr = r.client.Status(ctx)
	}
	if o.first, err = r.client.Status(ctx); err != nil {
		return o, err
	}
	o.began = time.Now()
	if o.Result, err = coldstart.Run(ctx, spec); err != nil {
		return o, err
	}
	o.places = b.places
	o.fetching = b.recorder.Requests()
	o.ended, err = r.client.Status(ctx)
	return o, errors.Join(serr, err)
}
