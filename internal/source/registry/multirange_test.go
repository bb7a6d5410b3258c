package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
)

var threeRanges = []source.Span{{Lo: 10, Hi: 50_010}, {Lo: 200_000, Hi: 200_001}, {Lo: 300_000, Hi: blobSize}}

// readRanges reads ranges at once and compares what comes before an error.
func (f *fixture) readRanges(t *testing.T, ranges []source.Span) (int, error) {
	t.Helper()
	multi, ok := f.blob.(source.MultiRanger)
	if !ok {
		t.Fatal("the blob cannot bring several ranges")
	}
	body, err := multi.OpenRanges(bounded(t), ranges)
	if err != nil {
		return 0, err
	}
	got, err := io.ReadAll(body)
	if cerr := body.Close(); cerr != nil {
		t.Error(cerr)
	}
	var want []byte
	for _, r := range ranges {
		want = append(want, f.data[r.Lo:r.Hi]...)
	}
	if !bytes.HasPrefix(want, got) || err == nil && len(got) != len(want) {
		t.Errorf("%d bytes that were not asked for, of %d", len(got), len(want))
	}
	return len(got), err
}

func TestSeveralRangesAtOnce(t *testing.T) {
	f := newFixture(t, registry.Options{})
	if _, err := f.readRanges(t, threeRanges); err != nil {
		t.Fatal(err)
	}
	if n := f.Count(f.match()).Requests; n != 1 {
		t.Errorf("%d requests", n)
	}
	if err := f.readRange(t.Context(), 100, 100); err != nil {
		t.Error(err)
	}
}

func TestSeveralRangesRefused(t *testing.T) {
	f := newFixture(t, registry.Options{})
	for name, tt := range map[string]struct {
		ranges []source.Span
		want   fserr.Kind
	}{
		"one":         {threeRanges[:1], fserr.Unsupported},
		"too many":    {make([]source.Span, 1000), fserr.Unsupported},
		"unordered":   {[]source.Span{{Lo: 10, Hi: 20}, {Lo: 0, Hi: 5}}, fserr.Invalid},
		"overlapping": {[]source.Span{{Lo: 10, Hi: 20}, {Lo: 19, Hi: 25}}, fserr.Invalid},
		"empty":       {[]source.Span{{Lo: 10, Hi: 20}, {Lo: 30, Hi: 30}}, fserr.Invalid},
		"outside":     {[]source.Span{{Lo: 10, Hi: 20}, {Lo: 30, Hi: blobSize + 1}}, fserr.Invalid},
	} {
		if _, err := f.readRanges(t, tt.ranges); !fserr.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if n := f.Count(f.match()).Requests; n != 0 {
		t.Errorf("%d requests", n)
	}
}

// multipart answers with parts, each under the Content-Range given.
func multipart(data []byte, parts ...[2]string) testreg.Fault {
	return func(x testreg.Exchange) {
		x.W.Header().Set("Content-Type", "multipart/byteranges; boundary=b")
		x.W.WriteHeader(http.StatusPartialContent)
		for _, p := range parts {
			_, _ = fmt.Fprintf(x.W, "--b\r\nContent-Range: %s\r\n\r\n%s\r\n", p[0], p[1])
		}
		_, _ = io.WriteString(x.W, "--b--\r\n")
	}
}

// TestSeveralRangesFaults has hosts that answer otherwise. What they say is never
// taken for the bytes asked for, and the blob can be read range by range after it.
func TestSeveralRangesFaults(t *testing.T) {
	ranges := []source.Span{{Lo: 0, Hi: 4}, {Lo: 8, Hi: 12}}
	for name, tt := range map[string]struct {
		fault func(data []byte) testreg.Fault
		want  fserr.Kind
		read  int  // bytes before the error
		again bool // it is worth asking again at once
	}{
		"the whole blob": {func([]byte) testreg.Fault { return testreg.IgnoreRange() }, fserr.Unsupported, 0, false},
		"416":            {func([]byte) testreg.Fault { return testreg.Status(416) }, fserr.Unsupported, 0, false},
		"not there":      {func([]byte) testreg.Fault { return testreg.NotFound() }, fserr.NotExist, 0, true},
		"only the first": {func([]byte) testreg.Fault {
			return func(x testreg.Exchange) { x.R.Header.Set("Range", "bytes=0-3"); x.Serve(x.W, x.R) }
		}, fserr.Unsupported, 0, false},
		"joined": {func(d []byte) testreg.Fault {
			return multipart(d, [2]string{"bytes 0-11/400000", string(d[:12])})
		}, fserr.Unsupported, 0, false},
		"another order": {func(d []byte) testreg.Fault {
			return multipart(d, [2]string{"bytes 8-11/400000", string(d[8:12])}, [2]string{"bytes 0-3/400000", string(d[:4])})
		}, fserr.Unsupported, 0, false},
		"one missing": {func(d []byte) testreg.Fault {
			return multipart(d, [2]string{"bytes 0-3/400000", string(d[:4])})
		}, fserr.Unavailable, 4, true},
		"another second": {func(d []byte) testreg.Fault {
			return multipart(d, [2]string{"bytes 0-3/400000", string(d[:4])}, [2]string{"bytes 9-12/400000", string(d[9:13])})
		}, fserr.Corrupt, 4, true},
		"of another blob": {func(d []byte) testreg.Fault {
			return multipart(d, [2]string{"bytes 0-3/400000", string(d[:4])}, [2]string{"bytes 8-11/12", string(d[8:12])})
		}, fserr.Corrupt, 4, true},
		"a short part": {func(d []byte) testreg.Fault {
			return multipart(d, [2]string{"bytes 0-3/400000", string(d[:2])}, [2]string{"bytes 8-11/400000", string(d[8:12])})
		}, fserr.Unavailable, 2, true},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			f := newFixture(t, registry.Options{Attempts: 1})
			f.Always(f.match(), tt.fault(f.data))
			n, err := f.readRanges(t, ranges)
			if !fserr.Is(err, tt.want) || n != tt.read {
				t.Errorf("%d bytes, %v; want %d and kind %v", n, err, tt.read, tt.want)
			}
			f.Heal()
			before := f.Count(f.match()).Requests
			if _, err := f.readRanges(t, ranges); (err == nil) != tt.again {
				t.Errorf("asked once more: %v", err)
			}
			if n := f.Count(f.match()).Requests - before; n != map[bool]int{true: 1, false: 0}[tt.again] {
				t.Errorf("%d requests when asked once more", n)
			}
			if err := f.readRange(t.Context(), 8, 4); err != nil {
				t.Error(err)
			}
		})
	}
}
