// Command inside runs in a guest and measures the rows of bench/guest on
// directories that hold the same tree.
//
//	inside -runs 3 -large LARGE [-echo HOST:PORT,...] NAME=DIRECTORY...
//
// Cold means that the guest's caches were dropped before. The directories take
// turns. Before anything is measured, all of them are compared with the first.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type settings struct {
	runs  int
	large string
	echo  string
	only  string
}

func main() {
	var s settings
	flag.IntVar(&s.runs, "runs", 3, "how often each row is measured")
	flag.StringVar(&s.large, "large", "", "path of the large file in each directory")
	flag.StringVar(&s.echo, "echo", "", "NAME=HOST:PORT of servers that echo, separated by commas")
	flag.StringVar(&s.only, "only", "", "rows to measure, separated by commas; all by default")
	flag.Parse()
	if err := measure(s, flag.Args(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "inside:", err)
		os.Exit(1)
	}
}

// mount is a directory to be measured.
type mount struct{ name, root string }

func measure(s settings, args []string, out io.Writer) error {
	var mounts []mount
	for _, arg := range args {
		name, root, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=DIRECTORY", arg)
		}
		mounts = append(mounts, mount{name, root})
	}
	if len(mounts) == 0 {
		return errors.New("no directories")
	}
	files, err := sameTrees(mounts)
	if err != nil {
		return err
	}
	w := work{files: files, large: s.large, buf: make([]byte, 1<<20)}
	for range s.runs {
		if err := s.round(&w, mounts, out); err != nil {
			return err
		}
	}
	return nil
}

// round measures everything once.
func (s *settings) round(w *work, mounts []mount, out io.Writer) error {
	for _, echo := range strings.FieldsFunc(s.echo, func(r rune) bool { return r == ',' }) {
		if err := roundTrips(echo, out); err != nil {
			return err
		}
	}
	for _, r := range w.rows() {
		if s.only != "" && !strings.Contains(","+s.only+",", ","+r.name+",") {
			continue
		}
		for _, m := range mounts {
			if err := coldAndWarm(r, m, out); err != nil {
				return fmt.Errorf("%s of %s: %w", r.name, m.name, err)
			}
		}
	}
	return nil
}

func coldAndWarm(r row, m mount, out io.Writer) error {
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	for _, state := range []string{"cold", "warm"} {
		runtime.GC()
		began := time.Now()
		if err := r.run(m.root); err != nil {
			return err
		}
		ms := float64(time.Since(began).Microseconds()) / 1000
		if _, err := fmt.Fprintf(out, "Benchmark%s/%s/%s 1 %g ms\n", m.name, r.name, state, ms); err != nil {
			return err
		}
	}
	return nil
}

// sameTrees compares all trees with the first, bytes included, and gives the
// paths of its files.
func sameTrees(mounts []mount) (files []string, err error) {
	var want []byte
	for i, m := range mounts {
		var listing bytes.Buffer
		list, err := describe(m.root, &listing)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		if i == 0 {
			files, want = list, listing.Bytes()
		} else if !bytes.Equal(listing.Bytes(), want) {
			return nil, fmt.Errorf("%s is another tree than %s", m.name, mounts[0].name)
		}
	}
	return files, nil
}
