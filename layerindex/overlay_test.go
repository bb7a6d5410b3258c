package layerindex_test

import (
	"path/filepath"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
)

func TestOverlayShowsWhatOverlayfsNeeds(t *testing.T) {
	layer := build(t, 0, words("d d", "f d/a", "e d/.wh.b", "d o", "e o/.wh..wh..opq", "f o/c", "e .wh.gone", "f back", "e .wh.back"))
	path := filepath.Join(t.TempDir(), "overlay")
	if err := layerindex.Overlay(path, layer); err != nil {
		t.Fatal(err)
	}
	x := open(t, path)
	if got, want := names(t, x), "back d/ d/a d/b gone o/ o/c"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for path, whiteout := range map[string]bool{"gone": true, "d/b": true, "back": false, "d/a": false} {
		a, err := x.Attr(resolve(t, x, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Mode == layerindex.ModeChar && a.Rdev == 0 && a.NLink == 1; got != whiteout {
			t.Errorf("%s: %+v", path, a)
		}
	}
	for path, opaque := range map[string]bool{"o": true, "d": false} {
		v, err := x.Xattr(resolve(t, x, path), []byte("trusted.overlay.opaque"))
		if (err == nil && string(v) == "y") != opaque || (err != nil && !fserr.Is(err, fserr.NoAttr)) {
			t.Errorf("%s: %q, %v", path, v, err)
		}
	}
	if err := layerindex.Overlay(path, x); !fserr.Is(err, fserr.Invalid) {
		t.Errorf("of what is merged already: %v", err)
	}
}
