package estargz_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// TestTarReader holds the entries of a tar against those of the TOC made of it.
func TestTarReader(t *testing.T) {
	src := tarOf(t, append(sampleFiles(), reg(estargz.PrefetchLandmark, "x"), reg(estargz.TOCName, "x"))...)
	_, want := tarContents(t, bytes.NewReader(src))
	delete(want, estargz.PrefetchLandmark)
	delete(want, estargz.TOCName)
	got := make(map[string]flat)
	tr := estargz.NewTarReader(bytes.NewReader(src))
	for {
		e, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil || int64(len(body)) != e.Size {
			t.Errorf("%s: %d bytes of %d, %v", e.Name, len(body), e.Size, err)
		}
		f := flat{e.Type.String(), e.LinkName, string(body), e.Mode, e.UID, e.GID, e.DevMajor, e.DevMinor, 0, nil}
		if e.Name == "etc/passwd" {
			if e.ModTime.Nanosecond() != 600_000_000 {
				t.Errorf("the fraction of %v was lost", e.ModTime)
			}
			f.ModTime++ // rounded in the other
		}
		f.ModTime += e.ModTime.Unix()
		for k, v := range e.Xattrs {
			if f.Xattrs == nil {
				f.Xattrs = make(map[string]string)
			}
			f.Xattrs[k] = string(v)
		}
		got[e.Name] = f
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTarReaderRefuses(t *testing.T) {
	for _, src := range [][]byte{bytes.Repeat([]byte("garbage "), 200), tarOf(t, reg("a", "0123"))[:100]} {
		_, err := estargz.NewTarReader(bytes.NewReader(src)).Next()
		if fserr.KindOf(err) != fserr.Corrupt {
			t.Errorf("%v is of kind %v", err, fserr.KindOf(err))
		}
	}
}
