package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nineply/nineply/vm"
)

// Ports of the host, in guests.
const (
	portServer  = 5640
	portEcho    = 5641
	portForward = 5642
	insidePath  = "/usr/local/bin/inside"
	helperPath  = "/usr/local/bin/nineply-mount"
	guestMiB    = 1024
	guestTime   = 30 * time.Minute
)

// script mounts everything and runs the program. Memory of the guest holds the
// local copy. %s: attach name, message size, where the forwards are.
const script = `set -e
aname=%s msize=%d forward=%s
mkdir /w && mount -t tmpfs tmpfs /w && mkdir /w/local
cp -a /peer/. /w/local/
kernel() {
	mkdir /w/$1
	mount -t 9p -o trans=tcp,port=$3,version=9p2000.L,cache=loose,access=any,msize=$msize,ro,aname=$aname $2 /w/$1
}
helper() {
	mkdir /w/$1
	nineply-mount mount --connect tcp:$NINEPLY_HOST:5640 --mode $2 --wait 30s --daemon $aname /w/$1
}
`

// how mounts the image, by name.
var how = map[string]string{
	"v9fs":    "kernel v9fs $NINEPLY_HOST 5640\n",
	"forward": "kernel forward $forward 5642\n",
	"keeper":  "helper keeper v9fs\n",
	"fuse":    "helper fuse fuse\n",
}

// guest measures in one guest.
func (b *bench) guest(ctx context.Context, kind string, out io.Writer) error {
	run, peer := vm.RunUML, "hostfs"
	if kind == "qemu" {
		run, peer = vm.RunQEMU, "virtio-9p"
	}
	mounts := slices.DeleteFunc(strings.Split(b.mounts, ","), func(name string) bool {
		return name == "forward" && kind != "qemu"
	})
	dir := filepath.Join(b.bed.Dir, kind)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	g := vm.Guest{
		Script:    fmt.Sprintf(script, b.aname, b.msize, vm.ForwardAddress),
		Files:     map[string]string{insidePath: b.inside, helperPath: b.helper},
		Shares:    map[string]string{"/peer": b.tree},
		Services:  map[int]string{portServer: "unix:" + filepath.Join(b.state, "9p.sock"), portEcho: "unix:" + b.echo},
		MemoryMiB: guestMiB,
		Timeout:   guestTime,
	}
	echoes := fmt.Sprintf("tcp=%s:%d", vm.HostAddress, portEcho)
	if slices.Contains(mounts, "forward") {
		g.Forwards = map[int]string{portForward: filepath.Join(b.state, "9p.sock")}
	}
	args := "local=/w/local " + peer + "=/peer"
	for _, name := range mounts {
		if how[name] == "" {
			return fmt.Errorf("no mount is called %q", name)
		}
		g.Script += how[name]
		args += " " + name + "=/w/" + name
	}
	g.Script += fmt.Sprintf("exec inside -runs %d -large /%s -echo %s -only '%s' %s\n", b.runs, large, echoes, b.only, args)
	say("booting %s", kind)
	before, err := b.served(ctx)
	if err != nil {
		return err
	}
	result, err := run(ctx, dir, g)
	if err == nil && result.Status != 0 {
		err = fmt.Errorf("status %d", result.Status)
	}
	if err != nil && result != nil {
		return fmt.Errorf("%w\n%.4000s\n%.2000s", err, result.Output, result.Console)
	}
	if err != nil {
		return err
	}
	say("%s took %v", kind, result.Elapsed.Round(time.Second))
	after, err := b.served(ctx)
	if err != nil {
		return err
	}
	return report(out, kind, peer, result.Output, after.since(before))
}

// report passes what a guest measured on, and compares.
func report(out io.Writer, kind, peer string, measured []byte, s serving) error {
	took := map[string][]float64{}
	var order []string
	for lines := bufio.NewScanner(bytes.NewReader(measured)); lines.Scan(); {
		name, rest, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "Benchmark"), " ")
		f := strings.Fields(rest)
		if !ok || len(f) != 3 {
			return fmt.Errorf("the guest said %q", lines.Text())
		}
		v, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			return fmt.Errorf("the guest said %q: %w", lines.Text(), err)
		}
		if took[name] == nil {
			order = append(order, name)
		}
		took[name] = append(took[name], v)
		if _, err := fmt.Fprintf(out, "Benchmark%s/%s %s\n", kind, name, rest); err != nil {
			return err
		}
	}
	if s.timed > 0 {
		if _, err := fmt.Fprintf(out, "Benchmark%s/server 1 %.2f us/message %.0f messages\n", kind, s.seconds/s.timed*1e6, s.messages); err != nil {
			return err
		}
	}
	for _, name := range order {
		if err := compare(out, kind, peer, name, took); err != nil {
			return err
		}
	}
	return nil
}

// compare prints how a row of a mount of the image relates to the same of the
// peer and, warm, of the local copy. The bars are those of virtio-9p.
func compare(out io.Writer, kind, peer, name string, took map[string][]float64) error {
	mount, row, _ := strings.Cut(name, "/")
	if how[mount] == "" {
		return nil
	}
	line := fmt.Sprintf("Benchmark%s/ratio/%s 1", kind, name)
	if theirs := took[peer+"/"+row]; theirs != nil {
		line += fmt.Sprintf(" %.3f of-%s", median(took[name])/median(theirs), peer)
		if peer == "virtio-9p" && mount != "fuse" {
			line += fmt.Sprintf(" 1 of-%s-max", peer)
		}
	}
	if local := took["local/"+row]; local != nil && strings.HasSuffix(row, "/warm") {
		line += fmt.Sprintf(" %.3f of-local", median(took[name])/median(local))
		if mount != "fuse" {
			line += " 1.1 of-local-max"
		}
	}
	_, err := fmt.Fprintln(out, line)
	return err
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
