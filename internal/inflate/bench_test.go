package inflate_test

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"os"
	"strconv"
	"testing"

	kflate "github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"

	"github.com/nineply/nineply/internal/inflate"
)

// benchData is the test binary itself: machine code, tables and text.
func benchData(b *testing.B) []byte {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Skip(err)
	}
	data, err := os.ReadFile(exe)
	if err != nil {
		b.Skip(err)
	}
	return data
}

func BenchmarkInflate(b *testing.B) {
	data := benchData(b)
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20, len(data)} {
		var parts [][]byte
		total := 0
		for off := 0; off+size <= len(data) && len(parts) < 256; off += size {
			parts = append(parts, deflate(b, 6, data[off:off+size]))
			total += size
		}
		dst := make([]byte, size)
		run := func(name string, one func(src []byte) error) {
			b.Run(name+"/"+strconv.Itoa(size>>10)+"KiB", func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if err := one(parts[i%len(parts)]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("own", func(src []byte) error { return inflate.Deflate(dst, src) })
		k := kflate.NewReader(bytes.NewReader(nil))
		run("klauspost", func(src []byte) error { return reset(k, dst, src) })
		s := flate.NewReader(bytes.NewReader(nil))
		run("std", func(src []byte) error { return reset(s, dst, src) })
	}
}

func reset(r io.Reader, dst, src []byte) error {
	if err := r.(flate.Resetter).Reset(bytes.NewReader(src), nil); err != nil {
		return err
	}
	_, err := io.ReadFull(r, dst)
	return err
}

func BenchmarkStream(b *testing.B) {
	data := benchData(b)
	blob := gzipped(b, 6, data)
	run := func(name string, read func() error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if err := read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, points := range []bool{false, true} {
		run("own/points="+strconv.FormatBool(points), func() error {
			s, err := inflate.NewStream(bytes.NewReader(blob), inflate.Point{Member: true})
			if err != nil {
				return err
			}
			if points {
				s.OnPoint = func(inflate.Point, []byte) {}
			}
			_, err = io.Copy(io.Discard, s)
			return errors.Join(err, s.Close())
		})
	}
	run("klauspost", func() error {
		zr, err := gzip.NewReader(bytes.NewReader(blob))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, zr)
		return err
	})
}
