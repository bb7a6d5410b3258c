package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/coldstart"
	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// rounds is how often the container of TestDaemonDies reads everything, kills
// how often the daemon dies meanwhile.
const (
	rounds = 6
	kills  = 8
)

// reader checksums a part of the image again and again, with pages dropped in
// between as far as a container can: every round opens and reads all files.
const reader = `import hashlib, os, sys
for i in range(%d):
    h = hashlib.sha256()
    for top in ("/usr/lib", "/app/data", "/etc"):
        for d, dirs, names in os.walk(top):
            dirs.sort()
            for n in sorted(names):
                p = os.path.join(d, n)
                if os.path.islink(p) or not os.path.isfile(p): continue
                f = os.open(p, os.O_RDONLY)
                while True:
                    b = os.read(f, 1 << 17)
                    if not b: break
                    h.update(b)
                os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(f)
    print(h.hexdigest(), flush=True)
`

// TestDaemonDies: a container reads and checksums while the daemon is killed
// and started again. It sees no error and no other byte, and what was cached is
// not fetched again.
func TestDaemonDies(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	daemon := site.daemon(t, "")
	c := harness.StartContainerd1(t, daemon.Plugin(), site.proxy.Addr)
	spec := coldstart.Spec{Address: c.Address, Namespace: c.Namespace, Snapshotter: "nineply", Ref: site.ref("lazy"), PlainHTTP: true, Keep: true}
	_, err := coldstart.Run(t.Context(), spec)
	must(t, err)

	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), c.CtrPath(), "--address", c.Address, "--namespace", c.Namespace,
		"run", "--rm", "--snapshotter", "nineply", site.ref("lazy"), "reader", "python3", "-c", fmt.Sprintf(reader, rounds))
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	done := make(chan []string, 1)
	go func() {
		var lines []string
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines = append(lines, sc.Text())
		}
		done <- lines
	}()
	lines := killWhile(t, daemon, done)
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("the container ended with %v\n%s", err, stderr.String())
	}
	if len(lines) != rounds {
		t.Fatalf("%d rounds of %d: %v", len(lines), rounds, lines)
	}
	for _, line := range lines {
		if line != lines[0] {
			t.Errorf("the container read other bytes: %v", lines)
		}
	}
	nothingIsFetchedTwice(t, site, daemon)
	must(t, coldstart.Remove(t.Context(), spec))
	eventually(t, "mounts are gone", func() bool { return len(status(t, daemon).Mounts) == 0 })
}

// killWhile kills and restarts the daemon at random moments until kills is
// reached, and returns what the reader printed.
func killWhile(t *testing.T, daemon *harness.Daemon, done <-chan []string) []string {
	t.Helper()
	rnd := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(time.Now().UnixNano())))
	for n := range kills {
		select {
		case lines := <-done:
			t.Logf("the reader ended after %d kills", n)
			return lines
		case <-time.After(time.Duration(rnd.IntN(400)) * time.Millisecond):
		}
		daemon.Kill()
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
		daemon.Start(t)
	}
	select {
	case lines := <-done:
		return lines
	case <-time.After(2 * time.Minute):
		t.Fatalf("the reader hangs\n%s", daemon.Tail())
		return nil
	}
}

// nothingIsFetchedTwice reads the whole image, kills the daemon, and reads it
// all again through a new mount.
func nothingIsFetchedTwice(t *testing.T, site *site, daemon *harness.Daemon) {
	t.Helper()
	dir := daemon.Mount(t, site.ref("lazy"))
	first, err := treesum.Walk(dir, treesum.Options{})
	must(t, err)
	daemon.CLI(t, "umount", dir)
	eventually(t, "what was read is cached", func() bool { f := status(t, daemon).Fetch; return f.Active+f.Queued == 0 })
	daemon.Kill()
	site.proxy.Reset()
	daemon.Start(t)
	dir = daemon.Mount(t, site.ref("lazy"))
	again, err := treesum.Walk(dir, treesum.Options{})
	must(t, err)
	same(t, first, again, treesum.Compare{})
	daemon.CLI(t, "umount", dir)
	blobs := site.proxy.Counts().Blobs
	for _, layer := range site.layerDigests(t, "lazy") {
		if n := blobs[layer].Bytes; n > 0 {
			t.Errorf("%d bytes of layer %s were fetched again after the daemon was killed", n, layer)
		}
	}
}

// TestDamagedCache: bytes changed on disk are never served. The daemon finds
// them out, fetches what was damaged anew, and serves the right ones.
func TestDamagedCache(t *testing.T) {
	start(t)
	im := small(t)
	want := reference(t, im)
	site := newSite(t, im, harness.Shape{})
	daemon := site.daemon(t, "")
	check := func() {
		t.Helper()
		dir := daemon.Mount(t, site.ref("lazy"))
		got, err := treesum.Walk(dir, treesum.Options{})
		must(t, err)
		same(t, want, got, treesum.Compare{})
		daemon.CLI(t, "umount", dir)
	}
	check()
	for round := range 3 {
		daemon.Stop(t)
		flipped := 0
		must(t, filepath.WalkDir(filepath.Join(daemon.Dir, "root", "chunks"), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.Contains(d.Name(), "seg") {
				return err
			}
			n, err := flip(path, int64(10_007+round*4096))
			flipped += n
			return err
		}))
		if flipped == 0 {
			t.Fatal("no segment file was found")
		}
		daemon.Start(t)
		check()
		t.Logf("%d bytes flipped, cache %+v", flipped, status(t, daemon).Cache)
	}
}

// flip changes one bit every step bytes of a file.
func flip(path string, step int64) (n int, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var b [1]byte
	for off := step; ; off += step {
		if _, err := f.ReadAt(b[:], off); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return n, err
		}
		b[0] ^= 0x20
		if _, err := f.WriteAt(b[:], off); err != nil {
			return n, err
		}
		n++
	}
}

// TestDamagedRegistry: bytes that the registry serves wrongly are never served
// on: a reader gets the right ones or EIO. Other images are unaffected, and all
// is well once the registry is.
func TestDamagedRegistry(t *testing.T) {
	start(t)
	im := small(t)
	site := newSite(t, im, harness.Shape{})
	site.convert(t, "other", "--chunk-size", "64KiB")
	want := map[string]string{}
	for _, n := range reference(t, im) {
		if n.Sum != "" {
			want[n.Path] = n.Sum
		}
	}
	daemon := site.daemon(t, "")
	dir := daemon.Mount(t, site.ref("lazy"))
	layers := site.layerDigests(t, "lazy")
	bad := layers[len(layers)-1:] // not in the other image, whose chunks are smaller
	site.proxy.SetFault(func(r *http.Request) harness.Fault {
		for _, d := range bad {
			if strings.HasSuffix(r.URL.Path, d) {
				return harness.Fault{Corrupt: true}
			}
		}
		return harness.Fault{}
	})
	right, eio := readAll(t, dir, want)
	if eio == 0 {
		t.Error("no read failed although every block was damaged")
	}
	t.Logf("%d files right, %d EIO", right, eio)
	if _, eio := readAll(t, daemon.Mount(t, site.ref("other")), want); eio > 0 {
		t.Errorf("%d files of an image that is not damaged", eio)
	}
	site.proxy.SetFault(nil)
	if _, eio := readAll(t, dir, want); eio > 0 {
		t.Errorf("%d files still fail after the registry was repaired", eio)
	}
	log, err := os.ReadFile(filepath.Join(daemon.Dir, "daemon.log"))
	must(t, err)
	if !bytes.Contains(log, []byte(bad[0])) || !bytes.Contains(log, []byte("verif")) {
		t.Error("the log does not say which layer failed verification")
	}
}

// readAll reads every file of a mount: its bytes must be the wanted ones, or
// there must be an EIO and none.
func readAll(t *testing.T, dir string, want map[string]string) (right, eio int) {
	t.Helper()
	for path, sum := range want {
		text, err := os.ReadFile(filepath.Join(dir, path))
		switch {
		case errors.Is(err, syscall.EIO):
			eio++
		case err != nil:
			t.Errorf("%s: %v", path, err)
		case fmt.Sprintf("%x", sha256.Sum256(text)) != sum:
			t.Errorf("%s: WRONG BYTES", path)
		default:
			right++
		}
	}
	return right, eio
}
