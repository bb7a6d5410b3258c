package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
)

// IndexMediaType is the media type of a packed index: what makes one layer lazy
// that is not by itself, in one blob.
const IndexMediaType = "application/vnd.nineply.index.layer.v1"

// A packed index is a header, the layer's index file and, for a gzip layer, its
// checkpoint file, each as a zstd frame. Numbers are little endian.
const (
	packedMagic   = "nplypack"
	packedVersion = 1
	packedHeader  = 128
	packedCRC     = packedHeader - 4 // of the header before it
	packedWindow  = 4 << 20

	// maxUnpacked bounds a file in a packed index, bytes. Real ones are packed to
	// about a third; what claims to be packed to less than 1/maxPacking is refused
	// before it fills the disk.
	maxUnpacked = 2 << 30
	maxPacking  = 256
)

// packedInfo is the header of a packed index.
type packedInfo struct {
	format layerindex.Format
	blob   estargz.Digest
	size   int64 // of the blob
	diffID estargz.Digest
	parts  [2]packedPart // layer index, checkpoints
}

type packedPart struct{ raw, packed int64 }

// indexPlace is where the files of an index are.
type indexPlace struct{ layer, spans string }

func corruptPack(format string, args ...any) error {
	return fserr.Newf(fserr.Corrupt, "unpack", "index", format, args...)
}

// packIndex packs the index at place into f. The same index gives the same bytes.
func packIndex(f io.WriteSeeker, place indexPlace, diffID string) error {
	index, err := layerindex.Open(place.layer)
	if err != nil {
		return err
	}
	info := index.Info()
	if err := index.Close(); err != nil {
		return err
	}
	h := packedInfo{format: info.Format, blob: info.Digest, size: info.BlobSize}
	if h.diffID, err = parseDigest("diff ID", diffID); err != nil {
		return err
	}
	paths := []string{place.layer}
	switch info.Format {
	case layerindex.FormatSpans:
		paths = append(paths, place.spans)
	case layerindex.FormatTar:
	default:
		return fserr.Newf(fserr.Unsupported, "pack", info.Digest.String(), "the layer has no index that another host could use")
	}
	if _, err := f.Write(make([]byte, packedHeader)); err != nil {
		return fmt.Errorf("pack index: %w", err)
	}
	for i, path := range paths {
		if h.parts[i], err = packFile(f, path); err != nil {
			return fmt.Errorf("pack index: %w", err)
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("pack index: %w", err)
	}
	if _, err := f.Write(h.encode()); err != nil {
		return fmt.Errorf("pack index: %w", err)
	}
	return nil
}

// packFile adds one file to w.
func packFile(w io.Writer, path string) (part packedPart, err error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return part, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	counted := &countingWriter{w: w}
	zw, err := zstd.NewWriter(counted, zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(packedWindow))
	if err != nil {
		return part, err
	}
	part.raw, err = io.Copy(zw, f)
	if err = errors.Join(err, zw.Close()); err != nil {
		return part, err
	}
	part.packed = counted.n
	return part, nil
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (h *packedInfo) encode() []byte {
	p := make([]byte, packedHeader)
	le := binary.LittleEndian
	copy(p, packedMagic)
	le.PutUint32(p[8:], packedVersion)
	le.PutUint32(p[12:], uint32(h.format))
	copy(p[16:], h.blob[:])
	le.PutUint64(p[48:], uint64(h.size))
	copy(p[56:], h.diffID[:])
	for i, part := range h.parts {
		le.PutUint64(p[88+16*i:], uint64(part.raw))
		le.PutUint64(p[96+16*i:], uint64(part.packed))
	}
	le.PutUint32(p[packedCRC:], crc32.Checksum(p[:packedCRC], crc32.MakeTable(crc32.Castagnoli)))
	return p
}

func decodePacked(p []byte) (h packedInfo, err error) {
	le := binary.LittleEndian
	switch {
	case string(p[:8]) != packedMagic:
		return h, corruptPack("it is none")
	case le.Uint32(p[8:]) != packedVersion:
		return h, fserr.Newf(fserr.Unsupported, "unpack", "index", "version %d, this program knows %d", le.Uint32(p[8:]), packedVersion)
	case le.Uint32(p[packedCRC:]) != crc32.Checksum(p[:packedCRC], crc32.MakeTable(crc32.Castagnoli)) || le.Uint32(p[120:]) != 0:
		return h, corruptPack("damaged header")
	}
	h.blob, h.diffID = estargz.Digest(p[16:48]), estargz.Digest(p[56:88])
	h.size = int64(le.Uint64(p[48:]) & math.MaxInt64)
	switch f := le.Uint32(p[12:]); f {
	case uint32(layerindex.FormatSpans), uint32(layerindex.FormatTar):
		h.format = layerindex.Format(f)
	default:
		return h, corruptPack("of a layer with format %d", f)
	}
	for i := range h.parts {
		raw, packed := le.Uint64(p[88+16*i:]), le.Uint64(p[96+16*i:])
		if raw > maxUnpacked || packed > maxUnpacked || raw > maxPacking*(packed+1) {
			return h, corruptPack("%d bytes packed to %d", raw, packed)
		}
		h.parts[i] = packedPart{raw: int64(raw), packed: int64(packed)}
	}
	if (h.parts[1].packed > 0) != (h.format == layerindex.FormatSpans) {
		return h, corruptPack("checkpoints where none belong, or none")
	}
	return h, nil
}

// indexFor is the layer that an index must be of.
type indexFor struct {
	blob   estargz.Digest
	size   int64
	diffID string // "" if not known
}

// unpackIndex makes the files of an index at place from a packed one, if it is
// sound and for that layer. It gives the layer's format and the DiffID that the index
// claims. What the index says of the layer's content is not checked here.
func unpackIndex(r io.Reader, layer indexFor, place indexPlace) (format, diffID string, err error) {
	head := make([]byte, packedHeader)
	if _, err := io.ReadFull(r, head); err != nil {
		return "", "", short(err)
	}
	h, err := decodePacked(head)
	if err != nil {
		return "", "", err
	}
	if err := h.isFor(layer); err != nil {
		return "", "", err
	}
	files := [2]*unpacked{}
	defer func() {
		for _, f := range files {
			if f != nil {
				err = errors.Join(err, f.discard())
			}
		}
	}()
	for i, path := range []string{place.layer, place.spans} {
		if h.parts[i].packed == 0 {
			continue
		}
		if files[i], err = unpackFile(r, h.parts[i], path); err != nil {
			return "", "", err
		}
	}
	if n, err := io.ReadFull(r, head[:1]); n > 0 || !errors.Is(err, io.EOF) {
		return "", "", corruptPack("something follows the last file")
	}
	format = formatTarIndex
	if h.format == layerindex.FormatSpans {
		format = formatGzipIndex
	}
	return format, h.diffID.String(), h.keep(files)
}

// isFor reports an index of another layer.
func (h *packedInfo) isFor(layer indexFor) error {
	switch {
	case h.blob != layer.blob || h.size != layer.size:
		return corruptPack("it is for blob %s of %d bytes", h.blob, h.size)
	case layer.diffID != "" && layer.diffID != h.diffID.String():
		return corruptPack("it is for diff ID %s, the image's config says %s", h.diffID, layer.diffID)
	case h.parts[0].packed == 0:
		return corruptPack("no layer index")
	}
	return nil
}

// keep puts the files in their places once they are checked: the layer's index is
// only there when its checkpoints are.
func (h *packedInfo) keep(files [2]*unpacked) error {
	if err := h.check(files[0].tmp, files[1]); err != nil {
		return err
	}
	if files[1] != nil {
		if err := files[1].keep(); err != nil {
			return err
		}
	}
	return files[0].keep()
}

// short gives a kind to what went wrong while reading a packed index.
func short(err error) error {
	if fserr.KindOf(err) != fserr.Internal {
		return err
	}
	return corruptPack("%w", noEOF(err))
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// check opens the files as they will be used, and compares what they are about.
func (h *packedInfo) check(layer string, spans *unpacked) (err error) {
	index, err := layerindex.Open(layer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, index.Close()) }()
	if got := index.Info(); got.Digest != h.blob || got.BlobSize != h.size || got.Format != h.format {
		return corruptPack("the layer index is of blob %s", got.Digest)
	}
	end := h.size // of the tar
	if spans != nil {
		s, err := openSpans(spans.tmp, h.blob, h.size)
		if err != nil {
			return err
		}
		end = s.index.Info().Size
		if err := errors.Join(s.index.Verify(), s.file.Close()); err != nil {
			return err
		}
	}
	for i := range uint32(index.NumChunks()) {
		if c, _ := index.Chunk(i); !c.Hole && c.Size > end-c.Member {
			return corruptPack("a chunk at %d of a tar of %d bytes", c.Member, end)
		}
	}
	return nil
}

// unpacked is a file that is complete and durable, but not in its place yet.
type unpacked struct{ tmp, path string }

// unpackFile reads one file of a packed index.
func unpackFile(r io.Reader, part packedPart, path string) (u *unpacked, err error) {
	zr, err := zstd.NewReader(io.LimitReader(r, part.packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(2*packedWindow))
	if err != nil {
		return nil, fmt.Errorf("unpack index: %w", err)
	}
	defer zr.Close()
	f, err := os.CreateTemp(filepath.Dir(path), layerindex.TempPattern)
	if err != nil {
		return nil, fmt.Errorf("unpack index: %w", err)
	}
	n, err := io.Copy(f, io.LimitReader(zr, part.raw+1))
	switch {
	case err != nil:
		err = unpackError(err)
	case n != part.raw:
		err = corruptPack("a file of %d bytes, not %d", n, part.raw)
	default:
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	return &unpacked{tmp: f.Name(), path: path}, nil
}

// unpackError tells damage from a source or a disk that failed.
func unpackError(err error) error {
	var disk *os.PathError
	if errors.As(err, &disk) {
		return fmt.Errorf("unpack index: %w", err)
	}
	return short(err)
}

// keep puts the file in its place.
func (u *unpacked) keep() error {
	if err := os.Rename(u.tmp, u.path); err != nil {
		return fmt.Errorf("unpack index: %w", err)
	}
	u.tmp = ""
	d, err := os.Open(filepath.Dir(u.path))
	if err != nil {
		return fmt.Errorf("unpack index: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// discard removes the file if it was not kept.
func (u *unpacked) discard() error {
	if u.tmp == "" {
		return nil
	}
	return os.Remove(u.tmp)
}
