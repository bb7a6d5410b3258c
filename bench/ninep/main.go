// Command ninep measures the 9P server by itself: a client that does nothing but
// send and count messages on a unix socket, against Nineply's server, against
// diod (Debian package diod) and the server of github.com/hugelgupf/p9, and
// against a program that answers messages of the same sizes without looking at
// them.
//
//	go run ./bench/ninep [-runs 5] [-time 150ms] [-only WORD] [-before FILE]
//
// All serve the same tree from memory: the files are on a tmpfs for diod and p9,
// and for Nineply they are an image whose chunks lie in a chunk store on that
// tmpfs. A second p9 has the very tree that Nineply serves behind it, so that
// nothing but the server differs. Each server is a process of its own; they take
// turns, so that what else the machine does falls on all of them.
//
// Ratios and their bars are printed once, of the medians over all runs. Without
// diod its rows are missing and a row "diod/missing" tells so.
//
// The output is that of go test -bench, for bench/record.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// settings come from the command line.
type settings struct {
	runs int
	time time.Duration
	only string
	// before is another build of this command.
	before string
	// serve and the rest make this process a server, started by another.
	serve, socket, dir, data string
}

func main() {
	var s settings
	flag.IntVar(&s.runs, "runs", 5, "how often each row is measured")
	flag.DurationVar(&s.time, "time", 150*time.Millisecond, "how long each row is measured in each run")
	flag.StringVar(&s.only, "only", "", "measure the rows whose names contain this word only")
	flag.StringVar(&s.before, "before", "", "another build of this command, whose server is measured as well, to be compared with")
	flag.StringVar(&s.serve, "serve", "", "be a server of this kind; used by the command itself")
	flag.StringVar(&s.socket, "socket", "", "the socket of that server")
	flag.StringVar(&s.dir, "dir", "", "the directory with the tree and the image")
	flag.StringVar(&s.data, "data", "", "the directory for that server's store")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	if s.serve != "" {
		err = serve(ctx, s)
	} else {
		err = measure(ctx, s, os.Stdout)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "ninep:", err)
		os.Exit(1)
	}
}

// tmpfs is where the trees are made: data that no disk can slow down.
const tmpfs = "/dev/shm"

func measure(ctx context.Context, s settings, out io.Writer) (err error) {
	dir, err := os.MkdirTemp(tmpfs, "nineply-ninep-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := makeTree(ctx, dir); err != nil {
		return fmt.Errorf("making the tree: %w", err)
	}
	servers, err := startServers(ctx, dir, s.before)
	defer func() {
		for _, srv := range servers {
			err = errors.Join(err, srv.stop())
		}
	}()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "pkg: bench/ninep"); err != nil {
		return err
	}
	b := &bench{settings: s, out: out, servers: servers, rates: map[string][]float64{}, sizes: map[string][]int{}}
	for range s.runs {
		if err := b.round(ctx); err != nil {
			return err
		}
	}
	if err := b.compare(); err != nil {
		return err
	}
	return b.memory()
}

// bench collects what is measured.
type bench struct {
	settings
	out     io.Writer
	servers []*server
	rates   map[string][]float64 // operations per second, by row and server
	sizes   map[string][]int     // of the replies of an operation
}

// lanesMeasured are how many requests are in flight.
var lanesMeasured = []int{1, 16}

// row names an operation with so many lanes.
func row(op *operation, lanes int) string { return fmt.Sprintf("%s/q=%d", op.name, lanes) }

// round measures every row with every server once.
func (b *bench) round(ctx context.Context) error {
	for i := range operations {
		op := &operations[i]
		for _, lanes := range lanesMeasured {
			if !strings.Contains(row(op, lanes), b.only) {
				continue
			}
			for _, srv := range b.servers {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := b.one(srv, op, lanes); err != nil {
					return fmt.Errorf("%s with %s: %w", row(op, lanes), srv.name, err)
				}
			}
		}
	}
	return nil
}

// one measures one row with one server.
func (b *bench) one(srv *server, op *operation, lanes int) error {
	c, err := dial(srv)
	if err != nil {
		return err
	}
	defer c.close()
	if srv.name == echoName {
		c.echo = b.sizes[op.name]
	}
	r, err := c.run(op, lanes, b.time)
	if err != nil {
		return err
	}
	if srv.name == oursName && b.sizes[op.name] == nil {
		b.sizes[op.name] = r.sizes
	}
	name := row(op, lanes) + "/" + srv.name
	rate := float64(r.count) / r.took.Seconds()
	b.rates[name] = append(b.rates[name], rate)
	line := fmt.Sprintf("Benchmark%s 1 %.6g ops/s %.4g cpu-us/op", name, rate, float64(r.cpu.Nanoseconds())/1e3/float64(r.count))
	if op.bytes > 0 {
		line += fmt.Sprintf(" %.4g MB/s", rate*float64(op.bytes)/1e6)
	}
	_, err = fmt.Fprintln(b.out, line)
	return err
}
