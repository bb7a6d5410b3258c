package chunkstore_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/nineply/nineply/internal/faultfs"
)

// pointsEnv says at how many points of a history to cut the power, or to fail a
// call: a number, or "all".
const pointsEnv = "CHUNKSTORE_FAULT_POINTS"

func faultPoints(usual int) int {
	if testing.Short() || raceEnabled {
		usual /= 4
	}
	switch v := os.Getenv(pointsEnv); v {
	case "":
		return usual
	case "all":
		return 1 << 30
	default:
		n, err := strconv.Atoi(v)
		if err != nil {
			panic(err)
		}
		return n
	}
}

// spread gives up to n of the numbers below all, far apart.
func spread(all, n int) []int {
	var list []int
	for i := range min(all, n) {
		list = append(list, i*all/min(all, n))
	}
	return list
}

// faultless runs a history on a disk that works.
func faultless(t testing.TB, limit int64, watch func(faultfs.Call)) *history {
	t.Helper()
	k := newDisk()
	k.fs.Inject(func(c faultfs.Call) error {
		if watch != nil {
			watch(c)
		}
		return nil
	})
	h := newHistory(k, limit, nil)
	if err := h.run(); err != nil {
		t.Fatalf("without a fault: %v", err)
	}
	return h
}

// TestPowerCutInHistory cuts the power after changes of a history that has every
// kind of operation in it. Each cut may leave several states of the disk.
func TestPowerCutInHistory(t *testing.T) {
	for _, limit := range []int64{0, 300 << 10} {
		t.Run(fmt.Sprintf("limit %d", limit), func(t *testing.T) {
			n := cutHistory(t, limit, faultPoints(60))
			t.Logf("%+v", n)
		})
	}
}

func cutHistory(t testing.TB, limit int64, points int) (n tally) {
	t.Helper()
	whole := faultless(t, limit, nil)
	rng := rand.New(rand.NewPCG(5, uint64(limit)))
	for _, cut := range spread(whole.disk.fs.Changes(), points) {
		k := newDisk()
		k.fs.CutPower(cut)
		h := newHistory(k, limit, whole.seen)
		if err := h.run(); errors.Is(err, errWrong) {
			t.Fatal(err)
		}
		h.abandon()
		n.points++
		for _, odds := range []float64{0, 0.5, 1} {
			h.check(t, k.afterPowerCut(rng, odds), &n, fmt.Sprintf("cut at %d, odds %v", cut, odds))
		}
	}
	return n
}

// TestFaultInHistory fails calls of every kind in a history with every kind of
// operation: once, or, for a disk that is full, from then on for a while.
func TestFaultInHistory(t *testing.T) {
	faults := map[string]error{
		"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC,
		"short write": faultfs.Torn{N: 1, Err: syscall.ENOSPC}, "torn write": faultfs.Torn{N: 4096 + 512, Err: syscall.EIO},
	}
	for _, limit := range []int64{0, 300 << 10} {
		calls := map[string]int{}
		faultless(t, limit, func(c faultfs.Call) { calls[c.Op]++ })
		for name, fault := range faults {
			t.Run(fmt.Sprintf("limit %d/%s", limit, name), func(t *testing.T) {
				n := failHistory(t, limit, calls, fault, faultPoints(24))
				t.Logf("%+v", n)
			})
		}
	}
}

func failHistory(t *testing.T, limit int64, calls map[string]int, fault error, points int) (n tally) {
	t.Helper()
	n.kinds = map[string]int{}
	var torn faultfs.Torn
	for op, all := range calls {
		if errors.As(fault, &torn) && op != "write" {
			continue
		}
		for _, at := range spread(all, max(2, points/4)) {
			for _, times := range []int{1, 3} {
				if raceEnabled && times > 1 {
					continue
				}
				h := failAt(t, limit, op, at, times, fault)
				n.points++
				n.kinds[op]++
				h.check(t, h.disk, &n, fmt.Sprintf("%s %d fails %d times with %v", op, at, times, fault))
			}
		}
	}
	return n
}

// failAt runs a history in which some calls fail, to where it ends.
func failAt(t *testing.T, limit int64, op string, at, times int, fault error) *history {
	t.Helper()
	k := newDisk()
	seen := 0
	k.fs.Inject(func(c faultfs.Call) error {
		if c.Op != op {
			return nil
		}
		seen++
		if seen > at && seen <= at+times {
			return fault
		}
		return nil
	})
	h := newHistory(k, limit, nil)
	if err := h.run(); errors.Is(err, errWrong) {
		t.Fatal(err)
	}
	h.abandon()
	k.fs.Inject(nil)
	if !errors.Is(fault, syscall.EIO) || op == "read" || op == "open" || op == "size" {
		clear(h.sure) // a full disk evicts, and what cannot be read is given up
	}
	return h
}

func TestSpread(t *testing.T) {
	if got := spread(10, 3); !slices.Equal(got, []int{0, 3, 6}) {
		t.Error(got)
	}
	if got := spread(2, 5); !slices.Equal(got, []int{0, 1}) {
		t.Error(got)
	}
}
