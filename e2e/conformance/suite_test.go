package conformance_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	upstream "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/zstd"

	"github.com/nineply/nineply/e2e/conformance/ours"
	"github.com/nineply/nineply/estargz"
)

// refused lists the sub-tests that want upstream's reader to open, through our
// codec, a blob whose TOC our parser does not let pass. Each has to fail, by the
// error given here and at no other step. In gzip they pass, for upstream's reader
// tries its own decompressor first.
var refused = map[string]error{
	// A chunk that cannot be verified: upstream notices when asked to verify.
	"lost digest in a entry": estargz.ErrNoChunkDigest,
	// A chunk in front of its predecessor: upstream notices when asked to verify.
	"duplicated entry offset": estargz.ErrOffset,
}

// TestCompression is upstream's suite for codecs, run on ours: its writer writes
// through our compressor, and its reader reads through our decompressor.
func TestCompression(t *testing.T) {
	var passed, refusals atomic.Int32
	t.Cleanup(func() { t.Logf("%d sub-tests passed, %d refused as listed", passed.Load(), refusals.Load()) })
	upstream.CompressionTestSuite(&upstream.TestRunner{
		TestingT: t,
		Runner: func(parent upstream.TestingT, name string, fn func(upstream.TestingT)) {
			parent.(*testing.T).Run(name, func(t *testing.T) {
				if because, ok := refused[name]; ok && strings.Contains(t.Name(), "=zstd") {
					mustRefuse(t, fn, because)
					refusals.Add(1)
					return
				}
				t.Cleanup(func() {
					if !t.Failed() {
						passed.Add(1)
					}
				})
				fn(t)
			})
		},
	}, codec(ours.Gzip, 1), codec(ours.Gzip, 6), codec(ours.External, 6), codec(ours.Zstd, 3))
}

// mustRefuse runs a sub-test that has to fail because of an error.
func mustRefuse(t *testing.T, fn func(upstream.TestingT), because error) {
	t.Helper()
	w := &witness{T: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(w)
	}()
	<-done
	if !w.failed.Load() || !strings.Contains(w.said, because.Error()) {
		t.Errorf("it was to fail with %q, and said %q", because, w.said)
	}
}

// witness notes the failure of a sub-test.
type witness struct {
	*testing.T
	failed atomic.Bool
	said   string
}

func (w *witness) Errorf(format string, args ...any) {
	w.said += fmt.Sprintf(format, args...)
	w.failed.Store(true)
}

func (w *witness) Fatalf(format string, args ...any) {
	w.Errorf(format, args...)
	w.FailNow()
}

func (w *witness) Fatal(args ...any) { w.Fatalf("%s", fmt.Sprint(args...)) }

func (w *witness) FailNow() {
	w.failed.Store(true)
	runtime.Goexit()
}

func (w *witness) Failed() bool { return w.failed.Load() }

func codec(kind ours.Kind, level int) upstream.TestingControllerFactory {
	return func() upstream.TestingController { return &controller{ours.Compression{Kind: kind, Level: level}} }
}

// controller is a codec with what the suite asks besides.
type controller struct{ ours.Compression }

func (c *controller) String() string {
	return fmt.Sprintf("%s-%d", c.Kind, c.Level)
}

func (c *controller) DiffIDOf(t upstream.TestingT, blob []byte) string {
	id, err := c.Compression.DiffIDOf(blob)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestStreams checks that compressed streams begin at the places given.
func (c *controller) TestStreams(t upstream.TestingT, blob []byte, streams []int64) {
	for _, off := range slices.Compact(slices.Sorted(slices.Values(streams))) {
		if err := c.streamAt(blob[off:]); err != nil {
			t.Errorf("no stream at %d of %d: %v", off, len(blob), err)
		}
	}
}

// streamAt decompresses something at the start of p.
func (c *controller) streamAt(p []byte) error {
	if c.Kind == ours.Zstd {
		if bytes.HasPrefix(p, []byte("\x28\xb5\x2f\xfd")) || bytes.HasPrefix(p, []byte("\x50\x2a\x4d\x18")) {
			_, err := zstd.NewReader(bytes.NewReader(p))
			return err
		}
		return errors.New("no frame")
	}
	rc, err := c.Reader(bytes.NewReader(p))
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, rc)
	return errors.Join(err, rc.Close())
}
