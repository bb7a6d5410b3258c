package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/bench/generated"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/source/registry"
)

const (
	layers   = 5
	perDir   = 24
	large    = "srv/large.bin"
	largeLen = 256 << 20
	block    = 4096 // of a random read
	seed     = 0x6e696e65
)

// item is one entry of a layer. A file's bytes follow from its number.
type item struct {
	name   string
	kind   byte // of archive/tar; 'w' is a whiteout
	size   int64
	number uint64
	link   string
}

const whiteout = 'w'

// plan is what the image is made of: the same always.
type plan struct {
	layers [layers][]item
	files  []string // those that are there in the end, without the large one
}

// newPlan spreads files over the layers as images have them: most in the lowest,
// some replaced and removed by those above, and every directory known to several.
func newPlan(files int) *plan {
	p := &plan{}
	rng := rand.New(rand.NewPCG(seed, uint64(files)))
	shares := [layers]float64{0.55, 0.2, 0.15, 0.07, 0.03}
	present := map[string]bool{}
	var order []string
	dirs := 0
	for l := range layers {
		add := func(it item) { p.layers[l] = append(p.layers[l], it) }
		for _, d := range []string{"usr", "usr/lib", "usr/share", "srv"} {
			add(item{name: d, kind: tar.TypeDir})
		}
		for i := range len(order) / 100 { // far apart, so never one twice
			name := order[i*100+rng.IntN(100)]
			if i%4 == 0 && present[name] {
				delete(present, name)
				add(item{name: name, kind: whiteout})
			} else if present[name] {
				add(item{name: name, kind: tar.TypeReg, size: sizeOf(rng), number: rng.Uint64()})
			}
		}
		for n := 0; n < int(shares[l]*float64(files)); {
			dir := fmt.Sprintf("usr/%s/package-%04d", []string{"lib", "share"}[dirs%2], dirs)
			dirs++
			add(item{name: dir, kind: tar.TypeDir})
			add(item{name: dir + "/current", kind: tar.TypeSymlink, link: "module-00.so"})
			for i := range min(perDir, int(shares[l]*float64(files))-n) {
				name := fmt.Sprintf("%s/module-%02d.so", dir, i)
				add(item{name: name, kind: tar.TypeReg, size: sizeOf(rng), number: rng.Uint64()})
				order, present[name] = append(order, name), true
				n++
			}
		}
	}
	p.layers[2] = append(p.layers[2], item{name: large, kind: tar.TypeReg, size: largeLen, number: 1})
	for _, name := range order {
		if present[name] {
			p.files = append(p.files, name)
		}
	}
	return p
}

// sizeOf is the size of a file: half are below 2 KiB, few above 64.
func sizeOf(rng *rand.Rand) int64 {
	size := int64(256) << rng.IntN(9)
	return size + rng.Int64N(size)
}

// content gives the bytes of a file.
func (it *item) content() io.Reader { return generated.Content(it.number, it.size) }

// mtime is that of all files.
func mtime() time.Time { return time.Unix(1_700_000_000, 0) }

// extract writes each layer to a directory of its own.
func (p *plan) extract(to string) (dirs []string, err error) {
	for l := range p.layers {
		dir := filepath.Join(to, fmt.Sprint(l))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		dirs = append(dirs, dir)
		for i := range p.layers[l] {
			it := &p.layers[l][i]
			path := filepath.Join(dir, it.name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), it.extract(path)); err != nil {
				return nil, err
			}
		}
	}
	return dirs, nil
}

func (it *item) extract(path string) error {
	switch it.kind {
	case tar.TypeDir:
		return os.MkdirAll(path, 0o755)
	case tar.TypeSymlink:
		return os.Symlink(it.link, path)
	case whiteout:
		return unix.Mknod(path, unix.S_IFCHR, 0)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, it.content())
	return errors.Join(err, f.Close(), os.Chtimes(path, mtime(), mtime()))
}

// writeTar writes a layer as images have it.
func (p *plan) writeTar(l int, w io.Writer) error {
	tw := tar.NewWriter(w)
	for i := range p.layers[l] {
		it := &p.layers[l][i]
		h := tar.Header{Name: it.name, Typeflag: it.kind, Size: it.size, Mode: 0o644, Linkname: it.link, ModTime: mtime()}
		switch it.kind {
		case tar.TypeDir:
			h.Name, h.Mode = h.Name+"/", 0o755
		case tar.TypeSymlink:
			h.Mode = 0o777
		case whiteout:
			dir, base := filepath.Split(it.name)
			h.Name, h.Typeflag = dir+estargz.WhiteoutPrefix+base, tar.TypeReg
		}
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, it.content()); err != nil {
			return err
		}
	}
	return tw.Close()
}

// push packs the layers and puts the image into a registry.
func (p *plan) push(ctx context.Context, ref string) (err error) {
	r := registry.New(registry.Options{})
	defer func() { err = errors.Join(err, r.Close()) }()
	var tars []func(io.Writer) error
	for l := range p.layers {
		tars = append(tars, func(w io.Writer) error { return p.writeTar(l, w) })
	}
	_, err = generated.PushTars(ctx, r, ref, estargz.WriterOptions{Level: 1}, tars...)
	return err
}
