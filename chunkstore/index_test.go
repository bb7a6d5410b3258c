package chunkstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nineply/nineply/chunkstore"
)

const (
	damagedEnv    = "CHUNKSTORE_DAMAGED_DIR"
	damagedChunks = 150
)

// damagedMain opens a store with a damaged index database. It is a process of
// its own because badger leaves goroutines behind when it fails, or dies.
func damagedMain() int {
	for round := range 2 {
		if err := openDamaged(os.Getenv(damagedEnv), round == 1); err != nil {
			fmt.Fprintf(os.Stderr, "round %d: %v\n", round, err)
			return 1
		}
	}
	return 0
}

// openDamaged demands that chunks are right or missing, and not missing for
// long.
func openDamaged(dir string, all bool) error {
	ctx := context.Background()
	s, err := chunkstore.Open(ctx, chunkstore.Options{Dir: dir, MinFreeBytes: -1})
	if err != nil {
		return err
	}
	for i := range damagedChunks {
		d, data := chunkOf(i, 900)
		got, err := readAll(s, d, len(data)+1)
		if err == nil && string(got) != string(data) {
			return fmt.Errorf("chunk %d: wrong bytes", i)
		}
		if err != nil && (all || !errors.Is(err, chunkstore.ErrNotFound)) {
			return fmt.Errorf("chunk %d: %w", i, err)
		}
	}
	d, data := chunkOf(100000, 900)
	if _, err := s.Put(ctx, d, data); err != nil {
		return err
	}
	_ = s.Close() // may well fail
	return nil
}

func TestDamagedIndex(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	closed, killed := indexStates(t)
	harms := map[string]func(data []byte) []byte{
		"zeros":     func(data []byte) []byte { return make([]byte, len(data)) },
		"cut":       func(data []byte) []byte { return data[:len(data)/2] },
		"empty":     func([]byte) []byte { return nil },
		"noise":     noise,
		"flip":      func(data []byte) []byte { return flipped(data, len(data)/3) },
		"flip last": func(data []byte) []byte { return flipped(data, len(data)-1) },
	}
	if testing.Short() || raceEnabled { // each case is a process of its own
		delete(harms, "zeros")
		delete(harms, "cut")
		delete(harms, "empty")
		delete(harms, "flip last")
	}
	for state, from := range map[string]string{"closed": closed, "killed": killed} {
		files, err := filepath.Glob(filepath.Join(from, "index", "*"))
		if err != nil || len(files) < 4 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			for harm, do := range harms {
				name := filepath.Base(file)
				t.Run(state+"/"+name+"/"+harm, func(t *testing.T) {
					dir := filepath.Join(t.TempDir(), "store")
					if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
						t.Fatal(err)
					}
					harmFile(t, filepath.Join(dir, "index", name), do)
					cmd := exec.Command(exe)
					cmd.Env = append(os.Environ(), damagedEnv+"="+dir)
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Fatalf("%v: %s", err, out)
					}
				})
			}
		}
	}
}

// indexStates gives the directories of a store that was closed and of one whose
// process was killed.
func indexStates(t *testing.T) (closed, killed string) {
	t.Helper()
	opt := chunkstore.Options{Dir: filepath.Join(t.TempDir(), "closed"), SegmentBytes: 64 << 10}
	s := open(t, opt)
	for i := range damagedChunks {
		d, data := chunkOf(i, 900)
		put(t, s, d, data)
		if i == damagedChunks/2 {
			closeStore(t, s)
			s = open(t, opt)
		}
	}
	if err := s.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	killed = filepath.Join(t.TempDir(), "killed")
	if err := os.CopyFS(killed, os.DirFS(opt.Dir)); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	return opt.Dir, killed
}

func harmFile(t *testing.T, name string, do func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, do(data))
}

func noise(data []byte) []byte {
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return data
}

func flipped(data []byte, at int) []byte {
	if at >= 0 && at < len(data) {
		data[at] ^= 0x40
	}
	return data
}
