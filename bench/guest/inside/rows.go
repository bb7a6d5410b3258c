package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	smallFiles  = 2000
	randomReads = 1000
	block       = 4096 // of a random read
	echoes      = 500
	echoSize    = 32 // about what a small message of 9P has
)

// row is something to be done with a directory.
type row struct {
	name string
	run  func(root string) error
}

// work is what the rows are done with.
type work struct {
	files []string // all but the large one
	large string
	buf   []byte
}

func (w *work) rows() []row {
	w.files = slices.DeleteFunc(w.files, func(f string) bool { return f == w.large })
	return []row{
		{"find", func(root string) error { return exec.Command("find", root).Run() }},
		{"lstat", lstatWalk},
		{"small", w.smallFiles},
		{"tar", tarAll},
		{"sequential", w.sequential},
		{"random", w.random},
	}
}

// lstatWalk asks for the attributes of everything.
func lstatWalk(root string) error {
	return filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		_, err = d.Info()
		return err
	})
}

// tarAll packs the tree. GNU tar reads no files if it sees that nobody wants
// them, so that somebody does.
func tarAll(root string) error {
	return exec.Command("sh", "-c", `tar -cf - -C "$1" . | cat >/dev/null`, "sh", root).Run()
}

// smallFiles opens, reads and closes files.
func (w *work) smallFiles(root string) error {
	for _, name := range w.files[:min(smallFiles, len(w.files))] {
		f, err := os.Open(filepath.Join(root, name))
		if err != nil {
			return err
		}
		_, err = f.Read(w.buf)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) sequential(root string) error {
	f, err := os.Open(filepath.Join(root, w.large))
	if err != nil {
		return err
	}
	for err == nil {
		_, err = f.Read(w.buf)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// random reads blocks all over the large file, the same always.
func (w *work) random(root string) error {
	f, err := os.Open(filepath.Join(root, w.large))
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	rng := rand.New(rand.NewPCG(9, 2))
	for range randomReads {
		if _, err := f.ReadAt(w.buf[:block], rng.Int64N(info.Size()/block)*block); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// describe writes a line for each entry of a tree, and gives its regular files.
func describe(root string, to io.Writer) (files []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		if !info.Mode().IsRegular() {
			_, err = fmt.Fprintf(to, "%s %v\n", name, info.Mode()&fs.ModeType)
			return err
		}
		files = append(files, name)
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		_, err = fmt.Fprintf(to, "%s %v %x\n", name, info.Size(), sum.Sum(nil))
		return err
	})
	return files, err
}

// roundTrips measures what a message and its answer cost on the way alone.
func roundTrips(target string, out io.Writer) error {
	name, address, ok := strings.Cut(target, "=")
	if !ok {
		return fmt.Errorf("%q is not NAME=HOST:PORT", target)
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	buf := make([]byte, echoSize)
	began := time.Now()
	for range echoes {
		if _, err = conn.Write(buf); err == nil {
			_, err = io.ReadFull(conn, buf)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("echo %s: %w", name, err), conn.Close())
		}
	}
	us := float64(time.Since(began).Microseconds()) / echoes
	_, err = fmt.Fprintf(out, "Benchmarkecho/%s 1 %.1f us/round-trip\n", name, us)
	return errors.Join(err, conn.Close())
}
