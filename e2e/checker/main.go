// Command checker reads the files of a tree over and over, in random order, until a
// file appears, and compares every one with a list of sha256 sums as sha256sum(1)
// prints it. Pages are dropped from the kernel's cache as they are read. It is
// static, so tests can run it in any guest.
//
//	checker ROOT SUMS STOP
//
// What it saw is printed as JSON. It ends with status 1 if there was an error or a
// wrong byte.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pause is the least time of one system call that counts as a pause.
const pause = 50 * time.Millisecond

// maxTold bounds the errors and pauses that are told one by one.
const maxTold = 10_000

// report is what is printed.
type report struct {
	Files  int       `json:"files"` // read whole
	Bytes  int64     `json:"bytes"`
	Errors []string  `json:"errors"`
	Wrong  []string  `json:"wrong"`  // files with other bytes
	Pauses []float64 `json:"pauses"` // milliseconds
}

func main() {
	r, err := run(os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "checker:", err)
	}
	if err != nil || len(r.Errors)+len(r.Wrong) > 0 {
		os.Exit(1)
	}
}

// file is one line of the list.
type file struct{ path, sum string }

func run(args []string) (*report, error) {
	if len(args) != 3 {
		return nil, errors.New("usage: checker ROOT SUMS STOP")
	}
	files, err := load(args[1])
	if err != nil {
		return nil, err
	}
	r := &report{}
	buf := make([]byte, 64<<10)
	for {
		for _, i := range rand.Perm(len(files)) {
			if _, err := os.Lstat(args[2]); err == nil {
				return r, nil
			}
			r.check(args[0], files[i], buf)
		}
	}
}

func load(path string) ([]file, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read side
	var files []file
	for sc := bufio.NewScanner(f); sc.Scan(); {
		sum, name, ok := strings.Cut(sc.Text(), "  ")
		if !ok {
			return nil, fmt.Errorf("%s: not a sum: %.80q", path, sc.Text())
		}
		files = append(files, file{name, sum})
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s names no file", path)
	}
	return files, nil
}

// check reads one file.
func (r *report) check(root string, want file, buf []byte) {
	sum := sha256.New()
	if err := r.read(filepath.Join(root, want.path), sum, buf); err != nil {
		if len(r.Errors) < maxTold {
			r.Errors = append(r.Errors, err.Error())
		}
		return
	}
	if hex.EncodeToString(sum.Sum(nil)) != want.sum {
		r.Wrong = append(r.Wrong, want.path)
	}
	r.Files++
}

func (r *report) read(path string, to io.Writer, buf []byte) error {
	start := time.Now()
	f, err := os.Open(path)
	r.took(start)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read side
	for {
		start := time.Now()
		n, err := f.Read(buf)
		r.took(start)
		r.Bytes += int64(n)
		if _, err := to.Write(buf[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

func (r *report) took(start time.Time) {
	if d := time.Since(start); d >= pause && len(r.Pauses) < maxTold {
		r.Pauses = append(r.Pauses, float64(d.Microseconds())/1000)
	}
}
