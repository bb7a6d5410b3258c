package chunkstore_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/nineply/nineply/chunkstore"
)

const (
	childEnv = "CHUNKSTORE_CHILD_DIR"
	firstEnv = "CHUNKSTORE_CHILD_FIRST"
	limitEnv = "CHUNKSTORE_CHILD_LIMIT"
	killsEnv = "CHUNKSTORE_KILLS" // how many in each test

	killMaxSize = 40000
)

func killOptions(dir string, limit int64) chunkstore.Options {
	return chunkstore.Options{Dir: dir, MaxBytes: limit, SegmentBytes: 512 << 10, SyncInterval: 5 * time.Millisecond, MinFreeBytes: -1}
}

// childMain is the process that gets killed: it puts chunks and tells of each
// one whose Put has returned. Now and then it does what takes longer.
func childMain() int {
	first, err := strconv.Atoi(os.Getenv(firstEnv))
	limit, lerr := strconv.ParseInt(os.Getenv(limitEnv), 10, 64)
	if err = errors.Join(err, lerr); err == nil {
		err = putForever(killOptions(os.Getenv(childEnv), limit), first)
	}
	fmt.Fprintln(os.Stderr, "child:", err)
	return 1
}

func putForever(opt chunkstore.Options, first int) error {
	ctx := context.Background()
	s, err := chunkstore.Open(ctx, opt)
	if err != nil {
		return err
	}
	var ack [8]byte
	for i := first; ; i++ {
		d, data := chunkOf(i, killMaxSize)
		if _, err := s.Put(ctx, d, data); err != nil {
			return err
		}
		if i%7 == 0 {
			if err := s.Records().Put(ctx, recordName(i), data[:min(len(data), 100)]); err != nil {
				return err
			}
		}
		if i%50 == 49 {
			if err := tidy(ctx, s, opt.MaxBytes, i); err != nil {
				return err
			}
		}
		binary.LittleEndian.PutUint64(ack[:], uint64(i))
		if _, err := os.Stdout.Write(ack[:]); err != nil {
			return err
		}
	}
}

// tidy does what "cache" offers. Only with a limit may it evict.
func tidy(ctx context.Context, s *chunkstore.Store, limit int64, i int) error {
	switch {
	case i%200 == 199:
		return s.Rebuild(ctx, nil)
	case limit > 0 && i%100 == 99:
		_, err := s.Retain(ctx, func(d chunkstore.Digest) bool { return d[0]%4 != 0 })
		return err
	case limit > 0:
		_, err := s.EvictTo(ctx, limit/2)
		return err
	}
	return s.Sync(ctx)
}

func recordName(i int) string { return "record/" + strconv.Itoa(i) }

// TestKill9 kills a process that puts chunks, again and again, and demands that
// everything acknowledged is there.
func TestKill9(t *testing.T) {
	killWhilePutting(t, t.TempDir(), wantedKills())
}

func killWhilePutting(t testing.TB, dir string, wanted int) int {
	t.Helper()
	return killAgainAndAgain(t, dir, 0, wanted, func(s *chunkstore.Store, next int) {
		for i := range next {
			checkAcknowledged(t, s, i)
		}
		if st := s.Stats(); st.Corrupt != 0 || st.Misses != 0 {
			t.Fatalf("%+v", st)
		}
	})
}

func wantedKills() int {
	if v, err := strconv.Atoi(os.Getenv(killsEnv)); err == nil {
		return v
	}
	if testing.Short() {
		return 6
	}
	return 20
}

// TestKill9WhileEvicting kills a process that also evicts: the limit holds, and
// what is listed is there.
func TestKill9WhileEvicting(t *testing.T) {
	const limit = 2 << 20
	dir := t.TempDir()
	killAgainAndAgain(t, dir, limit, wantedKills(), func(s *chunkstore.Store, next int) {
		listed := 0
		for i := range next {
			if d, _ := chunkOf(i, killMaxSize); s.Has(d) {
				checkChunk(t, s, i, killMaxSize)
				listed++
			}
		}
		if st := s.Stats(); st.Corrupt != 0 || st.Bytes > limit || next > 200 && listed < 20 {
			t.Fatalf("%d chunks listed, %+v", listed, st)
		}
	})
}

// killAgainAndAgain has check look at the store after every few kills. Chunks
// below next were acknowledged.
func killAgainAndAgain(t testing.TB, dir string, limit int64, wanted int, check func(s *chunkstore.Store, next int)) int {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	next, kills := 0, 0
	for kills < wanted {
		for range 1 + rng.IntN(3) { // killed again while recovering, or soon after
			next = 1 + runUntilKilled(t, dir, limit, next, rng.IntN(80))
			kills++
		}
		s := open(t, killOptions(dir, limit))
		check(s, next)
		closeStore(t, s)
	}
	t.Logf("killed %d times, %d chunks acknowledged", kills, next)
	s := open(t, killOptions(dir, limit))
	checkVerify(t, s, s.Stats().Chunks)
	return kills
}

// runUntilKilled starts a child, kills it after some acknowledgements and gives
// the number of the last one it sent.
func runUntilKilled(t testing.TB, dir string, limit int64, first, acks int) int {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+dir, firstEnv+"="+strconv.Itoa(first), limitEnv+"="+strconv.FormatInt(limit, 10))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	last := first - 1
	var ack [8]byte
	for n := 0; ; n++ {
		if n == acks {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := io.ReadFull(r, ack[:]); err != nil {
			break
		}
		last = int(binary.LittleEndian.Uint64(ack[:]))
	}
	_ = cmd.Wait() // killed
	if stderr.Len() > 0 {
		t.Fatalf("child failed: %s", stderr.String())
	}
	return last
}

func checkAcknowledged(t testing.TB, s *chunkstore.Store, i int) {
	t.Helper()
	checkChunk(t, s, i, killMaxSize)
	if i%7 != 0 {
		return
	}
	_, data := chunkOf(i, killMaxSize)
	got, err := s.Records().Get(context.Background(), recordName(i))
	if err != nil || !bytes.Equal(got, data[:min(len(data), 100)]) {
		t.Fatalf("record %d: %v", i, err)
	}
}
