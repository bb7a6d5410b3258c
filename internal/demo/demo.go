package demo

import (
	"context"
	"errors"
	"fmt"

	"github.com/nineply/nineply/internal/coldstart"
	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/daemon"
	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/internal/testbed"
)

// Options tune the demonstration.
type Options struct {
	Program  string             // the nineply to start as daemon
	Progress func(words string) // told each step before it begins; may be nil
}

// Start is one of the two starts. Times are seconds, sizes bytes.
type Start struct {
	Pull    float64 `json:"pull_s"`
	Create  float64 `json:"create_s"`
	Run     float64 `json:"run_s"`
	Total   float64 `json:"total_s"`
	Fetched int64   `json:"bytes_fetched"` // when the line was printed
	Size    int64   `json:"bytes_total"`   // of the image's layers
}

// Result is what was measured.
type Result struct {
	Line      string `json:"line"`
	Overlayfs Start  `json:"overlayfs"`
	Nineply   Start  `json:"nineply"`
}

// demo is one run of the demonstration.
type demo struct {
	opts Options
	bed  *testbed.Bed

	registry *testbed.Recorder
	plain    string // reference of the image as it is
	lazy     string // and converted
	sizes    map[string]int64
	daemon   testbed.Daemon
	socket   string // containerd's
}

// Run makes the demonstration. It needs root.
func Run(ctx context.Context, opts Options) (res Result, err error) {
	if err := testbed.Require("containerd", "runc", "docker-registry", "debootstrap", "skopeo"); err != nil {
		return res, err
	}
	bed, err := testbed.New("demo")
	if err != nil {
		return res, fmt.Errorf("demo: %w", err)
	}
	d := &demo{opts: opts, bed: bed, sizes: map[string]int64{}}
	defer func() { err = errors.Join(err, bed.Close()) }()
	for _, step := range []func(context.Context) error{d.startRegistry, d.pushImage, d.startDaemon, d.startContainerd} {
		if err := step(ctx); err != nil {
			return res, fmt.Errorf("demo: %w", err)
		}
	}
	return d.measure(ctx)
}

func (d *demo) say(format string, args ...any) {
	if d.opts.Progress != nil {
		d.opts.Progress(fmt.Sprintf(format, args...))
	}
}

// pushImage makes the image, and puts it into the registry in both forms.
func (d *demo) pushImage(ctx context.Context) error {
	im, err := demoimage.Build(ctx, demoimage.Options{Progress: d.opts.Progress})
	if err != nil {
		return err
	}
	d.plain, d.lazy = d.registry.Addr+"/demo:plain", d.registry.Addr+"/demo:lazy"
	d.say("pushing the image of %.1f MB to a registry on the loopback interface", float64(im.Size())/1e6)
	if err := im.Push(ctx, d.plain); err != nil {
		return err
	}
	d.sizes[d.plain] = im.Size()
	d.say("converting it")
	src := daemon.Sources(config.Default(d.bed.Dir, d.bed.Dir))
	res, err := convert.Convert(ctx, src, d.plain, src, d.lazy, convert.Options{TempDir: d.bed.Dir})
	if err := errors.Join(err, src.Close()); err != nil {
		return err
	}
	d.sizes[d.lazy] = res.Size
	return nil
}

func (d *demo) startRegistry(ctx context.Context) error {
	addr, err := d.bed.StartRegistry(ctx)
	if err != nil {
		return err
	}
	d.registry, err = d.bed.StartRecorder(ctx, addr)
	return err
}

func (d *demo) startDaemon(ctx context.Context) (err error) {
	d.daemon, err = d.bed.StartDaemon(ctx, d.opts.Program, "")
	return err
}

func (d *demo) startContainerd(ctx context.Context) (err error) {
	d.socket, err = d.bed.StartContainerd(ctx, d.daemon)
	return err
}

// measure starts the container both ways.
func (d *demo) measure(ctx context.Context) (Result, error) {
	var res Result
	for _, m := range []struct {
		snapshotter, ref string
		into             *Start
	}{{"overlayfs", d.plain, &res.Overlayfs}, {"nineply", d.lazy, &res.Nineply}} {
		d.say("starting the container with %s", m.snapshotter)
		d.registry.Reset()
		got, err := coldstart.Run(ctx, coldstart.Spec{
			Address: d.socket, Snapshotter: m.snapshotter, Ref: m.ref, PlainHTTP: true,
			AtLine: func() { m.into.Fetched = d.registry.Bytes() },
		})
		if err != nil {
			return res, fmt.Errorf("with %s: %w", m.snapshotter, err)
		}
		if res.Line != "" && got.Line != res.Line {
			return res, fmt.Errorf("the container printed %q with overlayfs and %q with %s", res.Line, got.Line, m.snapshotter)
		}
		res.Line = got.Line
		m.into.Pull, m.into.Create, m.into.Run, m.into.Total = got.Pull, got.Create, got.Run, got.Total
		m.into.Size = d.sizes[m.ref]
	}
	return res, nil
}
