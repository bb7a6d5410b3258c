package zran

import (
	"bytes"
	"io"

	"github.com/nineply/nineply/internal/inflate"
)

const (
	windowLen = 32 << 10
	// farthest is how far a deflate stream can refer back, and so how much output
	// can refer to the window of a checkpoint, bytes.
	farthest = windowLen
)

// trial decompresses from a new checkpoint, once the output that it must give is
// known.
type trial struct {
	at   inflate.Point
	src  []byte // the blob from at.In on
	want []byte // the output from at.Out on
}

// begin makes t the trial of a checkpoint.
func (t *trial) begin(p inflate.Point) {
	window := append(t.at.Window[:0], p.Window...)
	t.at, t.src, t.want = p, t.src[:0], t.want[:0]
	t.at.Window = window
}

// complete reports that there is output enough for the trial.
func (t *trial) complete() bool { return len(t.want) == checkOutput }

// ahead takes the next bytes of the blob, as far as they are of use.
func (t *trial) ahead(p []byte) {
	if !t.complete() && len(t.src) < maxAhead {
		t.src = append(t.src, p[:min(len(p), maxAhead-len(t.src))]...)
	}
}

// output takes bytes of the output that begin at off.
func (t *trial) output(off int64, p []byte) {
	skip := t.at.Out + int64(len(t.want)) - off
	if skip < 0 || skip >= int64(len(p)) || t.complete() {
		return
	}
	p = p[skip:]
	t.want = append(t.want, p[:min(len(p), checkOutput-len(t.want))]...)
}

// run decompresses from the checkpoint: ok says that the right bytes came, also
// with what is left of the window when all that nothing refers to is cut away.
func (t *trial) run() (window []byte, ok bool) {
	if !t.gives(t.at.Window, t.want) {
		return nil, false
	}
	if len(t.at.Window) == 0 {
		return nil, true
	}
	used, ok := t.used()
	if !ok {
		return nil, false
	}
	first := len(used)
	window = make([]byte, len(used))
	for i, u := range used {
		if u {
			window[i] = t.at.Window[i]
			first = min(first, i)
		}
	}
	window = window[first:]
	return window, t.gives(window, t.want)
}

// used finds out which bytes of the window the output refers to: the window is
// replaced by the number of each byte in it, low and high half, and what comes
// out names its origin. Where output does not depend on the window, it does not
// change when the window does.
func (t *trial) used() ([]bool, bool) {
	n := len(t.at.Window)
	size := min(len(t.want), farthest)
	low, inverse, high := make([]byte, n), make([]byte, n), make([]byte, n)
	for i := range n {
		low[i], inverse[i], high[i] = byte(i), ^byte(i), byte(i>>8)
	}
	var outs [3][]byte
	for k, window := range [...][]byte{low, inverse, high} {
		out, ok := t.decode(window, size)
		if !ok {
			return nil, false
		}
		outs[k] = out
	}
	used := make([]bool, n)
	for i := range size {
		if outs[0][i] == outs[1][i] {
			continue
		}
		at := int(outs[0][i]) | int(outs[2][i])<<8
		if at >= n {
			return nil, false
		}
		used[at] = true
	}
	return used, true
}

func (t *trial) gives(window, want []byte) bool {
	got, ok := t.decode(window, len(want))
	return ok && bytes.Equal(got, want)
}

// decode gives n bytes of output from the checkpoint with another window.
func (t *trial) decode(window []byte, n int) ([]byte, bool) {
	p := t.at
	p.Window = window
	s, err := inflate.NewStream(bytes.NewReader(t.src), p)
	if err != nil {
		return nil, false
	}
	defer s.Close() //nolint:errcheck // it only gives memory back
	out := make([]byte, n)
	_, err = io.ReadFull(s, out)
	return out, err == nil
}
