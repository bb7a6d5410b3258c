package image

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/layertar"
	"github.com/nineply/nineply/layerindex"
)

const (
	// betweenPieces is how long nobody must have waited before the next request.
	betweenPieces = 300 * time.Millisecond
	// buildingPoll is how often it is looked whether layers are still being opened.
	buildingPoll = 100 * time.Millisecond
	// maxKept is the largest chunk that is held in memory to be kept, bytes. Larger
	// ones are hashed only, and fetched when they are read.
	maxKept = 16 << 20
	// manyNodes are so many that an index made of them is large.
	manyNodes = 20_000
)

// sleep waits, or fails when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// quiet waits until nobody waits for bytes, nor for a layer to be opened.
func (f *filler) quiet(ctx context.Context, d time.Duration) error {
	for {
		if err := f.c.sched.Idle(ctx, d); err != nil || len(f.c.building) == 0 {
			return err
		}
		if err := sleep(ctx, buildingPoll); err != nil {
			return err
		}
	}
}

// readPiece reads some of a blob when nothing more urgent is to be done, and then lets
// others have the connection.
func (f *filler) readPiece(ctx context.Context, l *Layer, p []byte, off int64) (int, error) {
	for {
		if err := f.quiet(ctx, min(f.Delay, betweenPieces)); err != nil {
			return 0, err
		}
		began := time.Now()
		n, err := l.bytes.ReadRaw(ctx, p, off)
		if err != nil {
			return 0, err
		}
		if err := sleep(ctx, f.pause(n, time.Since(began))); err != nil {
			return 0, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

// read reads a layer to its end and keeps what came of it.
func (f *filler) read(ctx context.Context, j *job) error {
	l, err := f.c.acquire(ctx, want{digest: j.id.blob, vouch: j.id.vouch})
	if err != nil {
		return err
	}
	defer f.c.release(l)
	if l.id != j.id || f.c.verdict(ctx, l).settled() || !l.bytes.Ranged() {
		return nil
	}
	if !j.urgent.Load() {
		if err := f.quiet(ctx, f.Delay); err != nil {
			return err
		}
	}
	if l.index.NumNodes() > manyNodes {
		// What comparing them takes for a moment would stay with the process for minutes.
		defer debug.FreeOSMemory()
	}
	v, err := f.prove(ctx, j, l, f.c.loadCheckpoint(ctx, l.id), f.Checkpoint)
	if err == nil && (v.Wrong != "" || !f.claimed(ctx, l.id, v.DiffID)) {
		// Before a layer is given up, it is read from its start in one go: what was
		// wrong must not be how far an earlier run said that it had come.
		v, err = f.prove(ctx, j, l, nil, 0)
	}
	if err != nil {
		return err
	}
	if err := f.settle(ctx, l, v); err != nil {
		return err
	}
	return f.clear(ctx, l.id)
}

// clear removes what is only needed until a layer was read.
func (f *filler) clear(ctx context.Context, id layerID) error {
	err := f.c.records.Delete(ctx, keyFillState+id.String())
	if fserr.Is(err, fserr.NotExist) {
		err = nil
	}
	return errors.Join(err, f.c.removeSpool(id))
}

// claimed reports whether all who use the layer say that it has this DiffID.
func (f *filler) claimed(ctx context.Context, id layerID, diffID string) bool {
	all := true
	for _, claim := range f.treesOf(id) {
		all = all && (claim == "" || claim == diffID)
	}
	err := f.c.eachChain(ctx, func(_ string, rec *chainRecord) {
		if rec.isOf(id) {
			all = all && (rec.DiffID == "" || rec.DiffID == diffID)
		}
	})
	return all && err == nil
}

// prove reads a layer from a checkpoint on, nil for its start, and says what it is.
// The error is about the source or this machine: with a blob that has its digest,
// whatever is wrong is in the verdict. Every so many bytes, 0 for never, it is
// recorded how far it came.
func (f *filler) prove(ctx context.Context, j *job, l *Layer, at *checkpoint, every int64) (*verdict, error) {
	p, err := f.newPass(ctx, j, l, at, every)
	if err != nil && at != nil { // of no use
		p, err = f.newPass(ctx, j, l, nil, every)
		at = nil
	}
	if err != nil {
		return nil, err
	}
	defer p.close()
	problem := p.walk(at)
	if problem == nil {
		_, problem = io.Copy(io.Discard, p)
	}
	if problem != nil && (ctx.Err() != nil || fserr.KindOf(problem) != fserr.Corrupt) {
		return nil, problem
	}
	sum, err := p.blob.sum()
	if err != nil {
		return nil, err
	}
	if sum != l.id.blob {
		if err := f.clear(ctx, l.id); err != nil {
			return nil, err
		}
		return nil, fserr.Newf(fserr.Corrupt, "verify", "layer "+l.id.blob.String(), "its source gave bytes that have another digest")
	}
	if problem != nil {
		return &verdict{Wrong: problem.Error()}, nil
	}
	wrong, err := p.compare(ctx)
	if err != nil {
		return nil, err
	}
	return &verdict{DiffID: estargz.Digest(p.tar.Sum(nil)).String(), Wrong: wrong}, nil
}

// pass is one reading of a layer.
type pass struct {
	f     *filler
	ctx   context.Context // of the pass, which is one call
	l     *Layer
	index *layerindex.Index // that of the layer, in a mapping of its own: it is read all over
	blob  *blobReader
	dec   *unpacker
	tar   hash.Hash
	out   int64 // of the tar, read
	every int64
	saved int64 // where the last checkpoint is, in the blob

	pending *checkpoint // a place that is reached when the tar is read up to its Out
	place   *checkpoint // the last place that was reached
	spool   *spoolFile
	buf     []byte
	cursor  uint32 // of the chunks, in the order of the blob
}

func (f *filler) newPass(ctx context.Context, j *job, l *Layer, at *checkpoint, every int64) (*pass, error) {
	p := &pass{f: f, ctx: ctx, l: l, every: every}
	var from checkpoint
	if at != nil {
		from = *at
	}
	p.out, p.saved = from.Out, from.In
	blobHash, err := resumeHash(from.BlobHash)
	if err != nil {
		return nil, err
	}
	if p.tar, err = resumeHash(from.TarHash); err != nil {
		return nil, err
	}
	p.blob = &blobReader{
		fetch: f.fetcher(ctx, j, l), size: l.rec.Desc.Size, pos: from.In, hashed: from.In,
		hash: blobHash, piece: make([]byte, f.piece()),
	}
	if p.index, err = layerindex.Open(f.c.layerPath(l.id)); err != nil {
		return nil, err
	}
	if p.spool, err = openSpool(f.c.spoolPath(l.id), from.Spool); err != nil {
		return nil, errors.Join(err, p.index.Close())
	}
	format := p.index.Info().Format
	plain := format == layerindex.FormatTar || format == layerindex.FormatSOCI && l.spans.index.Info().Plain
	var mark marker
	if every > 0 {
		mark = p.mark
	}
	if p.dec, err = openUnpacker(format, plain, p.blob, p.index, at, mark); err != nil {
		return nil, errors.Join(err, p.spool.close(), p.index.Close())
	}
	j.done.Store(from.In)
	return p, nil
}

func (p *pass) close() {
	p.dec.close()
	_ = p.spool.close() // what counts of it was synced
	_ = p.index.Close() // it was only read
}

// Read reads the tar.
func (p *pass) Read(b []byte) (int, error) {
	n, err := p.dec.Read(b)
	p.tar.Write(b[:n])
	p.out += int64(n)
	if p.pending != nil && p.out >= p.pending.Out {
		p.reach(*p.pending)
		p.pending = nil
	}
	return n, unpackFault(err)
}

// mark notes a place where decoding can start again, if it is time for one.
func (p *pass) mark(place checkpoint) {
	if place.In-p.saved < p.every || p.place != nil && place.In-p.place.In < p.every {
		return
	}
	if place.Out <= p.out {
		p.reach(place)
		return
	}
	place.Window = slices.Clone(place.Window)
	p.pending = &place
}

// reach takes the states of the hashes at a place, if the tar was read just so far.
func (p *pass) reach(place checkpoint) {
	if place.Out != p.out || !p.blob.hashTo(place.In) {
		return
	}
	var err error
	if place.BlobHash, err = hashState(p.blob.hash); err != nil {
		return
	}
	if place.TarHash, err = hashState(p.tar); err != nil {
		return
	}
	place.Window = slices.Clone(place.Window)
	p.place = &place
}

// safe is called where the tar may be taken up again: behind an entry, or behind a cut
// of a file. If it is time, it is recorded.
func (p *pass) safe(file *openedFile) error {
	place := p.place
	if place == nil {
		return nil
	}
	n, err := p.spool.sync()
	if err != nil {
		return err
	}
	place.At, place.File, place.Spool = p.out, file, n
	if err := p.f.c.save(p.ctx, keyFillState+p.l.id.String(), place); err != nil {
		return err
	}
	p.saved, p.place = place.In, nil
	return nil
}

// tarBlock is what headers of a tar are aligned to, bytes.
const tarBlock = 512

// walk takes the tar apart, from a checkpoint on or from its start.
func (p *pass) walk(at *checkpoint) error {
	if at != nil {
		if err := p.skip(at.At - at.Out); err != nil {
			return err
		}
		if at.File != nil {
			if err := p.content(p, &at.File.Entry, at.File.Off, true); err != nil {
				return err
			}
		}
		if err := p.skip(-p.out & (tarBlock - 1)); err != nil {
			return err
		}
	}
	tr := estargz.NewTarReader(p)
	for {
		e, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s := spool(e)
		if err := p.content(tr, &s, 0, !tr.Sparse()); err != nil {
			return err
		}
	}
}

func (p *pass) skip(n int64) error {
	if _, err := io.CopyN(io.Discard, p, n); err != nil {
		return layertar.Wrap("read", noEOF(err))
	}
	return nil
}

// content reads an entry's content from off on, and notes the entry. inside says that it
// may be taken up again in its middle.
func (p *pass) content(r io.Reader, s *spooled, off int64, inside bool) error {
	if s.Type == estargz.TypeReg && s.Size > 0 {
		if err := p.file(r, s, off, inside); err != nil {
			return err
		}
	}
	if err := p.spool.add(s); err != nil {
		return err
	}
	return p.safe(nil)
}

// file cuts a file where the index does.
func (p *pass) file(r io.Reader, s *spooled, off int64, inside bool) error {
	file, known := p.fileOf(s)
	for off < s.Size {
		number, n := layerindex.NoChunk, min(wholeChunk, s.Size-off)
		if known {
			number = p.index.FindChunk(file, uint64(off))
			if c, ok := p.index.Chunk(number); ok && c.Offset == off {
				n = min(c.Size, s.Size-off)
			}
		}
		c, err := p.cut(r, number, n)
		if err != nil {
			return fmt.Errorf("%.256q: %w", s.Name, err)
		}
		s.Cuts = append(s.Cuts, c)
		off += n
		if !inside || off == s.Size {
			continue
		}
		if err := p.safe(&openedFile{Entry: *s, Off: off}); err != nil {
			return err
		}
	}
	return nil
}

// fileOf finds the file of the index that an entry of the tar should be: by its name,
// or by where its content is, when the name leads through links.
func (p *pass) fileOf(s *spooled) (layerindex.Content, bool) {
	node := layerindex.RootIno
	for part := range strings.SplitSeq(string(s.Name), "/") {
		if part == "" || part == "." {
			continue
		}
		var err error
		if node, err = p.index.Lookup(node, []byte(part)); err != nil {
			node = p.index.ChunkNode(p.cursor)
			break
		}
	}
	file, err := p.index.Content(node)
	if err != nil || int64(file.Size) != s.Size {
		return file, false
	}
	p.cursor = file.First + file.Count
	return file, true
}

// cut reads and hashes n bytes, and keeps them if they are chunk number of the index.
func (p *pass) cut(r io.Reader, number uint32, n int64) (cut, error) {
	chunk, _ := p.index.Chunk(number)
	if chunk.Hole || n > maxKept {
		h := zeroHash{}
		h.hash, _ = resumeHash(nil)
		if _, err := io.CopyN(&h, r, n); err != nil {
			return cut{}, layertar.Wrap("read", noEOF(err))
		}
		return cut{Size: n, Digest: estargz.Digest(h.hash.Sum(nil)), Zeros: chunk.Hole && !h.other}, nil
	}
	p.buf = slices.Grow(p.buf[:0], int(n))[:n]
	if _, err := io.ReadFull(r, p.buf); err != nil {
		return cut{}, layertar.Wrap("read", noEOF(err))
	}
	payload := chunkstore.Hash(p.buf)
	c := cut{Size: n, Digest: estargz.Digest(payload.Digest())}
	if number == layerindex.NoChunk || chunk.Size != n {
		return c, nil
	}
	if want, known := p.digest(number); known && want != c.Digest || !p.f.Room(n) {
		return c, nil
	}
	if err := p.l.bytes.Keep(p.ctx, number, payload); err != nil {
		return c, p.ctx.Err() // a store that cannot take it costs a fetch later
	}
	p.f.kept.Add(n)
	return c, nil
}

// digest is that of a chunk, if it is known.
func (p *pass) digest(number uint32) (estargz.Digest, bool) {
	if learned := p.l.learned; learned != nil {
		if d := learned.digests[number].Load(); d != nil {
			return *d, true
		}
		return estargz.Digest{}, false
	}
	c, ok := p.index.Chunk(number)
	return c.Digest, ok
}

// zeroHash hashes, and notes whether there is anything but zeros.
type zeroHash struct {
	hash  hash.Hash
	other bool
}

func (z *zeroHash) Write(p []byte) (int, error) {
	z.other = z.other || slices.ContainsFunc(p, func(b byte) bool { return b != 0 })
	return z.hash.Write(p)
}
