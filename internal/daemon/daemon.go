package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/platforms"
	sysd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/snapshotter"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// shutdownGrace is how long requests under way may take when the daemon stops.
const shutdownGrace = 5 * time.Second

// Options make a daemon.
type Options struct {
	Config        config.Config
	Version       string
	KeeperProgram string      // nineply-mount; "": beside this program or in PATH; "none": start none
	Logger        *zap.Logger // nil: to standard error, as configured
}

// parts are what a running daemon is made of, in the order of their creation.
type parts struct {
	cfg     config.Config
	log     *zap.Logger
	closers []func() error
	service *service
	sn      *snapshotter.Snapshotter
}

// Run serves until ctx ends. The error is nil after a stop that was asked for.
func Run(ctx context.Context, o Options) (err error) {
	log := o.Logger
	if log == nil {
		if log, err = newLogger(o.Config.Log.Level); err != nil {
			return err
		}
	}
	tuneMemory()
	p := &parts{cfg: o.Config, log: log}
	defer func() { err = errors.Join(err, p.close()) }()
	// The parts outlive ctx: they are closed one by one, in order, after it.
	if err := p.build(context.WithoutCancel(ctx), o.Version); err != nil {
		return err
	}
	if err := p.keeper(ctx, o.KeeperProgram); err != nil {
		return err
	}
	return p.serve(ctx)
}

func newLogger(level string) (*zap.Logger, error) {
	zc := zap.NewProductionConfig()
	zc.Sampling = nil
	zc.DisableStacktrace, zc.DisableCaller = true, true
	lvl, err := zap.ParseAtomicLevel(level)
	if err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	zc.Level = lvl
	log, err := zc.Build()
	if err != nil {
		return nil, fmt.Errorf("logger: %w", err)
	}
	return log, nil
}

// onClose has fn called when the daemon stops, before what was there earlier.
func (p *parts) onClose(fn func() error) { p.closers = append(p.closers, fn) }

func (p *parts) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	return errors.Join(errs...)
}

// build makes every part, from the store up to the snapshotter.
func (p *parts) build(ctx context.Context, version string) error {
	c := p.cfg
	store, err := chunkstore.Open(ctx, storeOptions(c, p.log))
	if err != nil {
		return fmt.Errorf("chunk cache: %w", err)
	}
	p.onClose(store.Close)
	sources := newSources(c, p.log)
	p.onClose(sources.Close)
	if err := sources.listen(ctx); err != nil {
		return err
	}
	sched := fetch.New(ctx, store, fetch.Options{
		Concurrency: c.Fetch.Concurrency, ReadAhead: int64(c.Fetch.ReadAhead), Logger: p.log.Named("fetch"),
	})
	events := newEventLog()
	catalog, err := image.New(ctx, image.Options{
		Dir: filepath.Join(c.Root, "index"), Source: sources, Store: store, Records: store.Records(), Scheduler: sched,
		Prefetch: c.Fetch.Prefetch, Fill: fill(c.Fetch, store, events), Strict: c.Fetch.Strict, Trust: trust(c.Index), Profiles: profiles(c.Profiles), Platform: platforms.DefaultSpec(), Logger: p.log.Named("image"),
	})
	if err != nil {
		sched.Close()
		return err
	}
	p.onClose(catalog.Close)
	cache, err := image.NewCache(ctx, catalog, store)
	if err != nil {
		sched.Close()
		return err
	}
	// Readers must have gone, and fetches have ended, before an index is unmapped.
	p.onClose(func() error { sched.Close(); return nil })
	server := p9server.NewServer(exporter{catalog, p.log.Named("9p")}, p9server.Options{
		ReadTimeout: time.Duration(c.Fetch.ReadTimeout), Logger: p.log.Named("9p"),
	})
	p.onClose(server.Close)
	p.service = &service{
		version: version, started: time.Now(), mode: c.Snapshotter.MountMode,
		catalog: catalog, store: store, cache: cache, sched: sched, server: server, events: events, traffic: sources.Traffic,
	}
	if c.Listen.Snapshotter == "" {
		return nil
	}
	return p.buildSnapshotter(ctx)
}

func (p *parts) buildSnapshotter(ctx context.Context) error {
	policy := snapshotter.HandBack
	if !p.cfg.Snapshotter.Fallback {
		policy = snapshotter.Fail
	}
	raw, err := rawMounts(p.cfg)
	if err != nil {
		return err
	}
	sn, err := snapshotter.New(ctx, snapshotter.Options{
		Raw:             raw,
		Root:            filepath.Join(p.cfg.Root, "snapshotter"),
		Backend:         backend{api: p.service, mounts: filepath.Join(p.cfg.State, "m"), mode: p.cfg.Snapshotter.MountMode},
		OnSourceFailure: policy,
		Logger:          p.log.Named("snapshotter"),
	})
	if err != nil {
		return err
	}
	p.sn = sn
	p.onClose(sn.Close)
	return nil
}

// server is something that answers on a listener until its context ends.
type server func(context.Context, net.Listener) error

// serve listens on every address and serves until ctx ends or one fails.
func (p *parts) serve(ctx context.Context) error {
	servers := map[string]server{p.cfg.Listen.Control: p.http(control.NewHandler(p.service, metricsHandler(p.service)))}
	for _, addr := range p.cfg.Listen.NineP {
		servers[addr] = p.service.server.Serve
	}
	if p.cfg.Listen.Metrics != "" {
		servers[p.cfg.Listen.Metrics] = p.http(metricsHandler(p.service))
	}
	if p.sn != nil {
		servers[p.cfg.Listen.Snapshotter] = p.serveSnapshots
	}
	g, ctx := errgroup.WithContext(ctx)
	for addr, serve := range servers {
		ln, err := listen(ctx, addr)
		if err != nil {
			g.Go(func() error { return err })
			continue
		}
		g.Go(func() error { return ended(ctx, serve(ctx, ln)) })
	}
	g.Go(func() error { p.tendMemory(ctx); return nil })
	if ctx.Err() == nil {
		p.log.Info("serving", zap.Strings("9p", p.cfg.Listen.NineP), zap.String("control", p.cfg.Listen.Control), zap.Int("pid", os.Getpid()))
		if _, err := sysd.SdNotify(false, sysd.SdNotifyReady); err != nil {
			p.log.Warn("telling systemd", zap.Error(err))
		}
	}
	err := g.Wait()
	p.log.Info("stopping", zap.Error(err))
	return err
}

// serveSnapshots answers containerd. What an earlier run left half done is
// cleaned up meanwhile.
func (p *parts) serveSnapshots(ctx context.Context, ln net.Listener) error {
	cleaned := make(chan struct{})
	go func() {
		defer close(cleaned)
		if err := p.sn.Cleanup(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("cleaning up after an earlier run", zap.Error(err))
		}
	}()
	err := snapshotter.Serve(ctx, ln, p.sn)
	<-cleaned
	return err
}

// ended drops the error of a server that was asked to stop.
func ended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// http serves h, and gives requests under way a little time when it ends.
func (p *parts) http(h http.Handler) server {
	return func(ctx context.Context, ln net.Listener) error {
		srv := &http.Server{
			Handler: h, ReadHeaderTimeout: 10 * time.Second,
			BaseContext: func(net.Listener) context.Context { return ctx },
		}
		stopped := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(stopped)
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
			defer cancel()
			if srv.Shutdown(grace) != nil { // requests are still under way
				_ = srv.Close() // ends them
			}
		})
		err := srv.Serve(ln)
		if !stop() {
			<-stopped
		}
		return err
	}
}
