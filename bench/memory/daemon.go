package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nineply/nineply/bench/generated"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/internal/testbed"
	"golang.org/x/sync/errgroup"
)

// round starts a daemon with nothing in its cache, has it do its work, and prints
// what it takes.
func (b *bench) round(ctx context.Context, name string, work func(ctx context.Context, d *daemon) error) (err error) {
	bed, err := testbed.New("memory-" + name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	td, err := bed.StartDaemon(ctx, b.program, b.config)
	if err != nil {
		return err
	}
	c := control.NewClient(td.Control)
	defer c.Close()
	st, err := status(ctx, c)
	if err != nil {
		return err
	}
	d := &daemon{control: c, pid: st.PID, socket: "unix:" + filepath.Join(filepath.Dir(td.Control), "9p.sock")}
	defer func() { err = errors.Join(err, d.disconnect()) }()
	if err := work(ctx, d); err != nil {
		return err
	}
	m, err := d.memory()
	if err != nil {
		return err
	}
	bars := map[string]string{"idle": fmt.Sprintf(" %d MiB-rss-max", idleBar), "busy": fmt.Sprintf(" %d MiB-peak-max", busyBar)}
	_, err = fmt.Fprintf(b.out, "Benchmark%s 1 %.1f MiB-rss %.1f MiB-anonymous %.1f MiB-file %.1f MiB-peak%s\n",
		name, m.rss, m.anonymous, m.file, m.peak, bars[name])
	return err
}

// status asks a daemon that may not listen yet.
func status(ctx context.Context, c *control.Client) (st control.Status, err error) {
	for range 100 {
		if st, err = c.Status(ctx); err == nil {
			break
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return st, err
		}
	}
	return st, err
}

// daemon is a nineply that is measured.
type daemon struct {
	control *control.Client
	pid     int
	socket  string
	clients []*p9client.Client
}

// attach gives the root of an image, over a connection of its own.
func (d *daemon) attach(ctx context.Context, ref string) (*p9client.File, error) {
	c, err := p9client.Dial(ctx, d.socket, p9client.Options{})
	if err != nil {
		return nil, err
	}
	d.clients = append(d.clients, c)
	return c.Attach(ctx, "image/"+ref)
}

func (d *daemon) disconnect() error {
	var errs []error
	for _, c := range d.clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// idle attaches every image, looks at some of its files, and pauses.
func (b *bench) idle(ctx context.Context, d *daemon) error {
	buf := make([]byte, 64<<10)
	for i := range b.images {
		root, err := d.attach(ctx, b.ref(imageName(i)))
		if err != nil {
			return err
		}
		for k := range 100 {
			if _, err := generated.Read(ctx, root, fileName(k*b.files/100), buf); err != nil {
				return err
			}
		}
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	return sleep(ctx, b.pause)
}

// settle waits until nothing is fetched any more.
func (d *daemon) settle(ctx context.Context) error {
	for {
		st, err := d.control.Status(ctx)
		if err != nil {
			return err
		}
		busy := st.Fetch.Queued + st.Fetch.Active
		for _, l := range st.Layers {
			if l.State == "waiting" || l.State == "filling" {
				busy++
			}
		}
		if busy == 0 {
			return nil
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const (
	connections = 8
	readers     = 32
)

// busy reads two images whole.
func (b *bench) busy(ctx context.Context, d *daemon) error {
	for _, image := range []struct {
		name  string
		files int
	}{{largeImage, b.large}, {smallImage, smallFiles}} {
		var roots []*p9client.File
		for range connections {
			root, err := d.attach(ctx, b.ref(image.name))
			if err != nil {
				return err
			}
			roots = append(roots, root)
		}
		next := counter{end: image.files}
		g, ctx := errgroup.WithContext(ctx)
		for k := range readers {
			g.Go(func() error {
				buf := make([]byte, 1<<20)
				for i, ok := next.take(); ok; i, ok = next.take() {
					if _, err := generated.Read(ctx, roots[k%connections], fileName(i), buf); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// counter hands out numbers up to end.
type counter struct {
	mu        sync.Mutex
	next, end int
}

func (c *counter) take() (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	return c.next - 1, c.next <= c.end
}

// footprint is what a process takes, MiB.
type footprint struct{ rss, anonymous, file, peak float64 }

func (d *daemon) memory() (m footprint, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.pid))
	if err != nil {
		return m, err
	}
	for key, to := range map[string]*float64{"VmRSS": &m.rss, "RssAnon": &m.anonymous, "RssFile": &m.file, "VmHWM": &m.peak} {
		_, rest, _ := bytes.Cut(status, []byte("\n"+key+":"))
		f := bytes.Fields(rest)
		if len(f) == 0 {
			return m, fmt.Errorf("process %d has no %s", d.pid, key)
		}
		kb, err := strconv.ParseFloat(string(f[0]), 64)
		if err != nil {
			return m, fmt.Errorf("%s of process %d: %w", key, d.pid, err)
		}
		*to = kb / 1024
	}
	return m, nil
}
