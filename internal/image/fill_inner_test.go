package image

import (
	"testing"
	"time"
)

func TestPause(t *testing.T) {
	const second = time.Second
	for name, tt := range map[string]struct {
		share int
		rate  int64
		n     int
		took  time.Duration
		want  time.Duration
	}{
		"half the time":              {50, 0, 4 << 20, second, second},
		"all of it":                  {100, 0, 4 << 20, second, 0},
		"a tenth":                    {10, 0, 4 << 20, second, 9 * second},
		"a rate that is reached":     {100, 1 << 20, 4 << 20, second, 3 * second},
		"a rate that is not reached": {50, 8 << 20, 4 << 20, second, second},
		"nothing came":               {50, 1 << 20, 0, second, second},
		"a share that is none":       {0, 0, 4 << 20, second, second},
	} {
		f := Fill{Share: tt.share, Rate: tt.rate}.withDefaults()
		if got := f.pause(tt.n, tt.took); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestPiece(t *testing.T) {
	for rate, want := range map[int64]int64{0: 4 << 20, 1 << 30: 4 << 20, 1 << 20: 1 << 20, 1: readUnit} {
		if got := (Fill{Rate: rate}).withDefaults().piece(); got != want {
			t.Errorf("at %d B/s: %d, want %d", rate, got, want)
		}
	}
}

// TestPoisonCheckIsFree: every read and lookup asks.
func TestPoisonCheckIsFree(t *testing.T) {
	tree := new(treeState)
	if n := testing.AllocsPerRun(100, func() {
		if tree.check() != nil {
			t.Error("poisoned")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	tree.poison.Store(&poisoned{poisonError(layerID{}, "x")})
	if tree.check() == nil {
		t.Error("not poisoned")
	}
}
