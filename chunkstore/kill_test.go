package chunkstore_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
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
	childEnv  = "CHUNKSTORE_CHILD_DIR"
	firstEnv  = "CHUNKSTORE_CHILD_FIRST"
	roundsEnv = "CHUNKSTORE_KILL_ROUNDS"

	killMaxSize = 40000
)

func killOptions(dir string) chunkstore.Options {
	return chunkstore.Options{Dir: dir, SegmentBytes: 512 << 10, SyncInterval: 5 * time.Millisecond, MinFreeBytes: -1}
}

// childMain is the process that gets killed: it puts chunks and tells of each
// one whose Put has returned.
func childMain() int {
	first, err := strconv.Atoi(os.Getenv(firstEnv))
	if err == nil {
		err = putForever(os.Getenv(childEnv), first)
	}
	fmt.Fprintln(os.Stderr, "child:", err)
	return 1
}

func putForever(dir string, first int) error {
	ctx := context.Background()
	s, err := chunkstore.Open(ctx, killOptions(dir))
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
		binary.LittleEndian.PutUint64(ack[:], uint64(i))
		if _, err := os.Stdout.Write(ack[:]); err != nil {
			return err
		}
	}
}

func recordName(i int) string { return "record/" + strconv.Itoa(i) }

func TestKill9(t *testing.T) {
	rounds := 15
	if v, err := strconv.Atoi(os.Getenv(roundsEnv)); err == nil {
		rounds = v
	}
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	next := 0
	for round := range rounds {
		for range 1 + rng.IntN(3) { // killed again while recovering, or soon after
			next = 1 + runUntilKilled(t, dir, next, rng.IntN(80))
		}
		s := open(t, killOptions(dir))
		for i := range next {
			checkAcknowledged(t, s, i)
		}
		if st := s.Stats(); st.Corrupt != 0 || st.Misses != 0 {
			t.Fatalf("round %d: %+v", round, st)
		}
		closeStore(t, s)
	}
	s := open(t, killOptions(dir))
	checkVerify(t, s, s.Stats().Chunks)
}

// runUntilKilled starts a child, kills it after some acknowledgements and gives
// the number of the last one it sent.
func runUntilKilled(t *testing.T, dir string, first, acks int) int {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+dir, firstEnv+"="+strconv.Itoa(first))
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

func checkAcknowledged(t *testing.T, s *chunkstore.Store, i int) {
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
