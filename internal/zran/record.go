package zran

import (
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/nineply/nineply/internal/inflate"
)

const (
	// DefaultSpan is how much output lies between two checkpoints, bytes: what a
	// read at random has to decompress at most, deflate blocks aside.
	DefaultSpan = 2 << 20

	// checkOutput is how much is decompressed from each new checkpoint to see that
	// it leads to the right bytes.
	checkOutput = 64 << 10
	// maxAhead bounds the compressed bytes kept for that. A stream that needs more
	// for so little output is not worth a checkpoint.
	maxAhead = 1 << 20
	// maxPoints bounds an index in memory. Beyond it, every second checkpoint goes
	// and the span doubles.
	maxPoints = 8 << 10
)

// Recorder decompresses one blob and records checkpoints on the way. It is used
// by one goroutine.
type Recorder struct {
	span    int64
	points  []point
	trials  []*trial // of the newest checkpoints, whose output is still to come
	idle    []*trial // whose memory can be used again
	dropped int
	encoder *zstd.Encoder

	source  tap
	stream  *inflate.Stream
	out     int64 // bytes read of the output
	started bool
	done    bool // the whole blob was read
}

// point is a checkpoint with its window packed.
type point struct {
	in, out int64
	bit     uint8
	member  bool
	window  uint16 // length before packing
	packed  []byte
}

// NewRecorder makes a Recorder with a checkpoint every span bytes of output, at
// least 64 KiB; 0 means [DefaultSpan].
func NewRecorder(span int64) *Recorder {
	if span == 0 {
		span = DefaultSpan
	}
	return &Recorder{span: max(span, checkOutput)}
}

// tap lets the bytes of the blob pass, and keeps those that a trial wants.
type tap struct {
	r   io.Reader
	rec *Recorder
	n   int64
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.n += int64(n)
	for _, tr := range t.rec.trials {
		tr.ahead(p[:n])
	}
	return n, err
}

// Start begins to read blob. It can be called once.
func (r *Recorder) Start(blob io.Reader) error {
	if r.started {
		return errors.New("zran: a recorder was started twice")
	}
	r.started = true
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return fmt.Errorf("window encoder: %w", err)
	}
	r.encoder = encoder
	r.source = tap{r: blob, rec: r}
	if r.stream, err = inflate.NewStream(&r.source, inflate.Point{Member: true}); err != nil {
		return err
	}
	r.stream.OnPoint = r.onPoint
	return nil
}

// Read reads the decompressed blob.
func (r *Recorder) Read(p []byte) (int, error) {
	n, err := r.stream.Read(p)
	for _, tr := range r.trials {
		tr.output(r.out, p[:n])
	}
	r.out += int64(n)
	r.done = r.done || errors.Is(err, io.EOF)
	for len(r.trials) > 0 && (r.done || r.trials[0].complete()) {
		r.settle(r.trials[0])
		r.idle = append(r.idle, r.trials[0])
		r.trials = r.trials[1:]
	}
	return n, err
}

// Close gives memory back. The record stays readable.
func (r *Recorder) Close() error {
	if r.stream == nil {
		return nil
	}
	return errors.Join(r.stream.Close(), r.encoder.Close())
}

// onPoint takes every place that is a span behind the last checkpoint.
func (r *Recorder) onPoint(p inflate.Point, ahead []byte) {
	if p.In > 0 && p.Out-r.lastOut() < r.span {
		return
	}
	tr := new(trial)
	if n := len(r.idle); n > 0 {
		tr, r.idle = r.idle[n-1], r.idle[:n-1]
	}
	tr.begin(p)
	tr.ahead(ahead)
	r.trials = append(r.trials, tr)
}

// lastOut is where the newest checkpoint is in the output.
func (r *Recorder) lastOut() int64 {
	if n := len(r.trials); n > 0 {
		return r.trials[n-1].at.Out
	}
	if n := len(r.points); n > 0 {
		return r.points[n-1].out
	}
	return 0
}

// settle ends the trial of a checkpoint, which is kept if it is good. The start of
// the blob is kept whatever the trial says: it has nothing that could be wrong.
func (r *Recorder) settle(tr *trial) {
	window, ok := tr.run()
	if !ok && tr.at.In > 0 {
		r.dropped++
		return
	}
	pt := point{in: tr.at.In, out: tr.at.Out, bit: tr.at.Bit, member: tr.at.Member, window: uint16(len(window))}
	if len(window) > 0 {
		pt.packed = r.encoder.EncodeAll(window, nil)
	}
	r.points = append(r.points, pt)
	if len(r.points) >= maxPoints {
		r.thin()
	}
}

// thin drops every second checkpoint, and the start never.
func (r *Recorder) thin() {
	keep := r.points[:0]
	for i, p := range r.points {
		if i%2 == 0 {
			keep = append(keep, p)
		}
	}
	clear(r.points[len(keep):])
	r.points = keep
	r.span *= 2
}

// Points is how many checkpoints there are, and how many were found bad.
func (r *Recorder) Points() (kept, dropped int) { return len(r.points), r.dropped }
