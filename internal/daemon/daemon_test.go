package daemon_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/daemon"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func lazyLayer(t *testing.T, name, body string) testreg.Layer {
	t.Helper()
	var raw, out bytes.Buffer
	tw := tar.NewWriter(&raw)
	if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(tw, body); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	w := estargz.NewWriter(&out, estargz.WriterOptions{})
	if err := w.AppendTar(t.Context(), &raw); err != nil {
		t.Fatal(err)
	}
	res, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return testreg.Layer{Data: out.Bytes(), DiffID: digest.Digest(res.DiffID.String()), Annotations: map[string]string{estargz.AnnotationTOCDigest: res.TOCDigest.String()}}
}

// running is a daemon in this process.
type running struct {
	cfg    config.Config
	client *control.Client
	logs   *observer.ObservedLogs
	stop   func() error
}

// run starts a daemon on dir and waits until it serves.
func run(t *testing.T, dir string) *running {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	r := &running{cfg: config.Default(filepath.Join(dir, "root"), filepath.Join(dir, "run")), logs: logs}
	r.cfg.Listen.NineP = append(r.cfg.Listen.NineP, "tcp:127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- daemon.Run(ctx, daemon.Options{Config: r.cfg, Version: "test", KeeperProgram: "none", Logger: zap.New(core)})
	}()
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		r.client.Close()
		cancel()
		return <-done
	}
	r.client = control.NewClient(filepath.Join(dir, "run", "control.sock"))
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	for logs.FilterMessage("serving").Len() == 0 {
		runtime.Gosched()
		select {
		case err := <-done:
			stopped = true
			cancel()
			t.Fatalf("the daemon ended: %v", err)
		default:
		}
	}
	return r
}

// cat reads one file of an image over 9P.
func (r *running) cat(ctx context.Context, aname, name string) (string, error) {
	c, err := p9client.Dial(ctx, r.cfg.Listen.NineP[0], p9client.Options{})
	if err != nil {
		return "", err
	}
	root, err := c.Attach(ctx, aname)
	if err != nil {
		return "", errors.Join(err, c.Close())
	}
	f, err := root.WalkOpen(ctx, name)
	if err != nil {
		return "", errors.Join(err, c.Close())
	}
	buf := make([]byte, 1<<20)
	n, err := f.ReadAt(ctx, buf, 0)
	return string(buf[:n]), errors.Join(err, c.Close())
}

func TestServesAndStopsWithoutTraces(t *testing.T) {
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, "hello", "world")}})
	dir := t.TempDir()
	before := openFiles(t)
	for round := range 3 {
		r := run(t, dir)
		if got, err := r.cat(t.Context(), "image/"+reg.Ref("app", "v1"), "hello"); err != nil || got != "world" {
			t.Fatalf("round %d: %q, %v", round, got, err)
		}
		st, err := r.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st.Version != "test" || st.PID != os.Getpid() || len(st.Layers) != 1 || !st.Layers[0].Lazy || st.KeeperError == "" {
			t.Errorf("status %+v", st)
		}
		if fetched := st.Fetch.Bytes["demand"]; (fetched > 0) != (round == 0) {
			t.Errorf("round %d fetched %d bytes", round, fetched)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if after := openFiles(t); after > before+2 { // the registry of the test keeps its own connections
		t.Errorf("%d files open before, %d after", before, after)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

func TestOneDaemonPerDirectory(t *testing.T) {
	dir := t.TempDir()
	r := run(t, dir)
	err := daemon.Run(t.Context(), daemon.Options{Config: r.cfg, KeeperProgram: "none", Logger: zap.NewNop()})
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second daemon: %v", err)
	}
	if _, err := r.client.Status(t.Context()); err != nil {
		t.Errorf("the first: %v", err)
	}
}

func TestStaleSocketsAreReplacedLivingOnesAreNot(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "run")
	if err := os.MkdirAll(state, 0o755); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(state, "9p.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	cfg := config.Default(filepath.Join(dir, "root"), state)
	err = daemon.Run(t.Context(), daemon.Options{Config: cfg, KeeperProgram: "none", Logger: zap.NewNop()})
	if err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("with a living socket: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	run(t, dir) // replaces the dead one
}

func TestControlErrors(t *testing.T) {
	reg := testreg.New(t)
	r := run(t, t.TempDir())
	ctx := t.Context()
	missing := "image/" + reg.Ref("none", "v1")
	for name, tt := range map[string]struct {
		err  error
		kind fserr.Kind
	}{
		"relative target": {r.client.Mount(ctx, control.MountRequest{Aname: missing, Target: "mnt"}), fserr.Invalid},
		"unclean target":  {r.client.Mount(ctx, control.MountRequest{Aname: missing, Target: "/mnt/../x"}), fserr.Invalid},
		"no such image":   {r.client.Mount(ctx, control.MountRequest{Aname: missing, Target: "/mnt"}), fserr.NotExist},
		"no keeper":       {r.client.Unmount(ctx, "/mnt"), fserr.Unavailable},
		"bad chain":       {r.client.RemoveChain(ctx, "x"), fserr.Invalid},
	} {
		if !fserr.Is(tt.err, tt.kind) {
			t.Errorf("%s: %v (%v), want %v", name, tt.err, fserr.KindOf(tt.err), tt.kind)
		}
	}
	_, err := r.client.AddLayer(ctx, control.Layer{Ref: reg.Ref("none", "v1"), Digest: digest.FromString("x").String(), ChainID: digest.FromString("y").String()})
	if !fserr.Is(err, fserr.NotExist) {
		t.Errorf("layer of no image: %v", err)
	}
}

func TestAttachFailureIsLoggedWithItsCause(t *testing.T) {
	reg := testreg.New(t)
	added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, "a", "b")}})
	reg.Always(testreg.Match{Digest: added.Layers[0].Digest}, testreg.NotFound())
	r := run(t, t.TempDir())
	if _, err := r.cat(t.Context(), "image/"+reg.Ref("app", "v1"), "a"); err == nil {
		t.Error("served")
	}
	logs := r.logs.FilterMessage("attach refused").All()
	if len(logs) == 0 {
		t.Fatal("nothing was logged")
	}
	text := fmt.Sprint(logs[0].ContextMap())
	for _, part := range []string{reg.Ref("app", "v1"), added.Layers[0].Digest.String(), "404"} {
		if !strings.Contains(text, part) {
			t.Errorf("the log does not name %s: %s", part, text)
		}
	}
}

func TestMetrics(t *testing.T) {
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, "hello", "world")}})
	r := run(t, t.TempDir())
	if _, err := r.cat(t.Context(), "image/"+reg.Ref("app", "v1"), "hello"); err != nil {
		t.Fatal(err)
	}
	for stored := int64(0); stored == 0; { // it is stored after it was served
		st, err := r.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stored = st.Cache.Chunks
	}
	_, socket, err := config.SplitAddress(r.cfg.Listen.Control)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	resp, err := client.Get("http://nineply/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`nineply_fetch_requests_total{priority="demand"} 1`, `nineply_chunk_reads_total{result="miss"} 1`,
		`nineply_9p_messages_total{type="attach"} 1`, `nineply_9p_payload_bytes_total 5`, `nineply_cache_chunks 1`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}
