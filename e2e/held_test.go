package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/hostlink"
	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/internal/p9client"
)

// TestHeldSessionDeaths: the daemon dies at random moments under 9P sessions that
// lead straight to it, as those of v9fs mounts do; every byte is compared.
func TestHeldSessionDeaths(t *testing.T) {
	start(t)
	const deaths, readers = 5, 4
	im := small(t)
	site := newSite(t, im, harness.Shape{})
	daemon := site.daemon(t, "")
	opts := mount.SessionOptions{Aname: "image/" + site.ref("lazy")}
	h, client, err := mount.Hold(t.Context(), hostlink.SocketFor(daemon.Socket()), opts, nil)
	must(t, err)
	nc, err := net.FileConn(client)
	must(t, errors.Join(err, client.Close()))
	c, err := p9client.New(t.Context(), nc, p9client.Options{})
	must(t, err)
	root, err := c.Attach(t.Context(), opts.Aname)
	must(t, err)
	files := strings.Split(strings.TrimSpace(string(sumsOf(reference(t, im)))), "\n")
	stop := make(chan struct{})
	var read atomic.Int64
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for {
				sum, path, _ := strings.Cut(files[rand.IntN(len(files))], "  ")
				if err := compareHeld(t, root, path, sum); err != nil {
					t.Errorf("%s: %v", path, err)
					return
				}
				read.Add(1)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range deaths {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // the moment is the point
		daemon.Kill()
		daemon.Start(t)
	}
	close(stop)
	wg.Wait()
	t.Logf("%d deaths, %d files read, %d reconnects", deaths, read.Load(), h.Reconnects())
	_ = c.Close() // the end of the session
	h.Wait()
}

// compareHeld reads one file.
func compareHeld(t *testing.T, root *p9client.File, path, want string) error {
	f, err := root.WalkOpen(t.Context(), strings.Split(strings.Trim(strings.TrimPrefix(path, "./"), "/"), "/")...)
	if err != nil {
		return err
	}
	sum, buf := sha256.New(), make([]byte, 128<<10)
	for off := int64(0); ; {
		n, err := f.ReadAt(t.Context(), buf, off)
		if n == 0 || err != nil && !errors.Is(err, io.EOF) {
			if err != nil && !errors.Is(err, io.EOF) {
				return errors.Join(err, f.Close())
			}
			break
		}
		sum.Write(buf[:n])
		off += int64(n)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		return errors.Join(errors.New("WRONG BYTES"), f.Close())
	}
	return f.Close()
}
