package estargz

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"

	"github.com/klauspost/compress/gzip"

	"github.com/nineply/nineply/internal/fserr"
)

// finish writes TOC and footer, and says what the blob is.
func (a *assembler) finish(split *tarSplit, res *Result) error {
	if err := a.checkLinks(); err != nil {
		return err
	}
	res.Annotations = make(map[string]string)
	var err error
	switch {
	case a.opts.Dialect == DialectContainers:
		err = a.finishContainers(split, res)
	case a.opts.Format == FormatZstdChunked:
		err = a.finishStargzZstd(a.tocBytes(nil), res)
	case a.opts.KeepDiffID:
		err = a.finishOutside(a.tocBytes(nil), res)
	default:
		err = a.finishEStargz(a.tocBytes(nil), res)
	}
	if err != nil {
		return err
	}
	res.BlobDigest, res.BlobSize = a.blob.sum(), a.blob.n
	res.DiffID, res.UncompressedSize = a.tar.sum(), a.tar.n
	res.MediaType = MediaTypeGzip
	if a.opts.Format == FormatZstdChunked {
		res.MediaType = MediaTypeZstd
	}
	if a.opts.Dialect == DialectStargz {
		res.Annotations[AnnotationTOCDigest] = res.TOCDigest.String()
		res.Annotations[AnnotationUncompressedSize] = strconv.FormatInt(res.UncompressedSize, 10)
	}
	return nil
}

// WriteTOC ends a blob whose members, of size bytes so far, and whose TOC were
// made elsewhere: it writes TOC and footer to w as a [Writer] with these options
// does, and what they add to the tar to plain. The dialect of containers/storage
// needs more than that and is refused. The result has what concerns the TOC:
// TOCDigest, ExternalTOC, and annotations that say where it is.
func WriteTOC(w, plain io.Writer, size int64, toc []byte, opts WriterOptions) (Result, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return Result{}, err
	}
	a := &assembler{opts: opts, blob: newTally(w), tar: newTally(plain)}
	a.blob.n = size
	res := Result{Annotations: make(map[string]string)}
	switch {
	case opts.Dialect != DialectStargz:
		err = fserr.Newf(fserr.Unsupported, "write TOC", "", "this dialect also needs the tar")
	case opts.Format == FormatZstdChunked:
		err = a.finishStargzZstd(toc, &res)
	case opts.KeepDiffID:
		err = a.finishOutside(toc, &res)
	default:
		err = a.finishEStargz(toc, &res)
	}
	return res, err
}

// finishEStargz ends the blob with the TOC as the last file of the tar.
func (a *assembler) finishEStargz(toc []byte, res *Result) error {
	res.TOCDigest = Sum(toc)
	offset := a.blob.n
	if err := writeTOCMember(a.blob, a.tar, toc, a.opts.Level); err != nil {
		return err
	}
	_, err := a.blob.Write(appendFooter(nil, offset))
	return err
}

// finishOutside ends a blob whose TOC is a layer of its own.
func (a *assembler) finishOutside(toc []byte, res *Result) error {
	res.TOCDigest = Sum(toc)
	var out bytes.Buffer
	if err := writeTOCMember(&out, io.Discard, toc, a.opts.Level); err != nil {
		return err
	}
	res.ExternalTOC = out.Bytes()
	_, err := a.blob.Write([]byte(externalTail))
	return err
}

// writeTOCMember writes a gzip member with the TOC in a tar, which goes to plain
// as it is.
func writeTOCMember(packed, plain io.Writer, toc []byte, level int) error {
	zw, err := gzip.NewWriterLevel(packed, level)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(io.MultiWriter(zw, plain))
	h := &tar.Header{Typeflag: tar.TypeReg, Name: TOCName, Size: int64(len(toc)), Format: tar.FormatUSTAR}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if _, err := tw.Write(toc); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return zw.Close()
}

// finishStargzZstd ends the blob as stargz-snapshotter does.
func (a *assembler) finishStargzZstd(toc []byte, res *Result) error {
	place, sum, err := a.zstdTOC(toc, res)
	if err != nil {
		return err
	}
	res.Annotations[AnnotationStargzChecksum] = sum.String()
	res.Annotations[AnnotationStargzPosition] = position(place)
	_, err = a.blob.Write(appendZstdFooter(nil, place))
	return err
}

// finishContainers ends the blob as containers/storage does, and again as
// stargz-snapshotter does: the one never reads the footer, the other no more than
// the last.
func (a *assembler) finishContainers(split *tarSplit, res *Result) error {
	if len(a.dropped) > 0 {
		split.unfit() // it refuses a tar that has a name twice
	}
	packed, err := split.finish()
	if err != nil {
		return err
	}
	var splitDigest *Digest
	if packed != nil {
		d := Sum(packed)
		splitDigest = &d
	}
	place, sum, err := a.zstdTOC(a.tocBytes(splitDigest), res)
	if err != nil {
		return err
	}
	res.Annotations[AnnotationContainersChecksum] = sum.String()
	res.Annotations[AnnotationContainersPosition] = position(place)
	var at, size int64
	if packed != nil {
		if at, err = a.skippable(packed); err != nil {
			return err
		}
		size = split.size
		res.Annotations[AnnotationContainersTarSplit] = fmt.Sprintf("%d:%d:%d", at, len(packed), size)
	}
	footer := appendSkippable(nil, zstdFooter64)
	for _, v := range [...]int64{place.TOCOffset, place.TOCSize, place.TOCRawSize, zstdTOCofCRFS, at, int64(len(packed)), size} {
		footer = binary.LittleEndian.AppendUint64(footer, uint64(v))
	}
	_, err = a.blob.Write(appendZstdFooter(append(footer, zstdEnd64...), place))
	return err
}

// zstdTOC writes the TOC in a skippable frame.
func (a *assembler) zstdTOC(toc []byte, res *Result) (place Footer, sum Digest, err error) {
	res.TOCDigest = Sum(toc)
	zw, err := newZstdWriter(nil, a.opts.Level)
	if err != nil {
		return Footer{}, Digest{}, err
	}
	packed := zw.EncodeAll(toc, nil)
	offset, err := a.skippable(packed)
	if err != nil {
		return Footer{}, Digest{}, err
	}
	return Footer{TOCOffset: offset, TOCSize: int64(len(packed)), TOCRawSize: int64(len(toc)), Zstd: true}, Sum(packed), nil
}

// skippable writes p in a skippable frame, and gives p's offset.
func (a *assembler) skippable(p []byte) (int64, error) {
	if _, err := a.blob.Write(appendSkippable(nil, len(p))); err != nil {
		return 0, err
	}
	offset := a.blob.n
	_, err := a.blob.Write(p)
	return offset, err
}

// position is the form of annotations for where the TOC is.
func position(f Footer) string {
	return fmt.Sprintf("%d:%d:%d:%d", f.TOCOffset, f.TOCSize, f.TOCRawSize, zstdTOCofCRFS)
}
