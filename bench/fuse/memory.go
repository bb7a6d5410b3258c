package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nineply/nineply/internal/keeper"
)

// walkEvery mounts one is walked over.
const walkEvery = 10

// memory measures the keeper's with several mounts.
func (b *bench) memory(ctx context.Context, out io.Writer) error {
	client := keeper.NewClient(filepath.Join(b.bed.Dir, "run", "keeper.sock"))
	defer client.Close()
	health, err := client.Health(ctx)
	if err != nil {
		return err
	}
	have := 1
	for _, want := range []int{1, 50, 200} {
		for ; have < want; have++ {
			dir := filepath.Join(b.bed.Dir, fmt.Sprintf("more-%d", have))
			if err := b.mount(ctx, dir); err != nil {
				return err
			}
			if have%walkEvery != 0 {
				continue
			}
			if err := lstatWalk(ctx, dir); err != nil {
				return err
			}
		}
		rss, anonymous, err := resident(health.PID)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "Benchmarkkeeper/mounts=%d 1 %.1f MB-rss %.1f MB-anonymous\n", want, rss, anonymous)
		if err != nil {
			return err
		}
	}
	return nil
}

// resident gives the memory of a process: all of it, and what is its own.
func resident(pid int) (rss, anonymous float64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	find := func(key string) (mb float64) {
		_, rest, _ := bytes.Cut(status, []byte("\n"+key+":"))
		if f := bytes.Fields(rest); len(f) > 0 {
			kb, err := strconv.ParseFloat(string(f[0]), 64)
			if err == nil {
				mb = kb / 1024
			}
		}
		return mb
	}
	return find("VmRSS"), find("RssAnon"), nil
}
