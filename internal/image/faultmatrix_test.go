package image_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/credentials"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// patience is how long anything may take in the tests below. What needs it all hangs.
const patience = 20 * time.Second

// world is what all sites have in common.
type world struct {
	lazy, plain testreg.Layer // of the same files
	want        map[string]string
	profile     []byte
	secure      string // an address whose certificate nobody trusts
	closed      string // one whose connections end during the TLS handshake
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{want: map[string]string{"a": random("a", 300<<10), "d/b": random("b", 100<<10), "z": "tiny"}}
	files := []file{{name: "a", body: w.want["a"]}, {name: "d/"}, {name: "d/b", body: w.want["d/b"]}, {name: "z", body: "tiny"}}
	w.lazy, w.plain = lazyLayer(t, files...), gzipLayer(t, files...)
	srv := httptest.NewUnstartedServer(nil)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	w.secure = srv.URL
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-ended })
	w.closed = "https://" + ln.Addr().String()
	w.learn(t)
	return w
}

// learn notes what reading the image teaches, on a site of its own.
func (w *world) learn(t *testing.T) {
	t.Helper()
	s := w.site(t)
	l := s.open(t, patience, image.Profiles{Record: true}, false)
	if err := s.readAll(t.Context(), l, s.ref()); err != nil {
		t.Fatal(err)
	}
	w.profile = (&profiled{node: l.node}).profileFile(t, s.ref())
}

// site is a registry as a cloud has it, with tokens and storage elsewhere, that holds
// the same image lazily and not.
type site struct {
	*testreg.Registry
	*world
	lazy, plain testreg.Added
}

func (w *world) site(t *testing.T) *site {
	t.Helper()
	s := &site{Registry: testreg.New(t, testreg.WithBearer("joe", "hush"), testreg.WithRedirects()), world: w}
	s.lazy = s.AddImage("team/app", "v1", testreg.Image{Layers: []testreg.Layer{w.lazy}})
	s.plain = s.AddImage("team/app", "plain", testreg.Image{Layers: []testreg.Layer{w.plain}})
	return s
}

func (s *site) ref() string { return s.Ref("team/app", "v1") }

// laboratory is a node whose pauses take no time.
type laboratory struct {
	*node
	src   source.Mux
	begin func() // of the background
}

func (s *site) open(t *testing.T, stall time.Duration, what image.Profiles, fill bool) *laboratory {
	t.Helper()
	ctx, dir := context.WithoutCancel(t.Context()), memoryDir(t)
	store, err := chunkstore.Open(ctx, chunkstore.Options{Dir: filepath.Join(dir, "chunks")})
	if err != nil {
		t.Fatal(err)
	}
	reg := registry.New(registry.Options{
		Attempts: 4, StallTimeout: stall, Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		Credentials: credentials.Func(func(_ context.Context, host, _ string) (credentials.Credential, error) {
			if host != s.Host() {
				return credentials.Credential{}, fmt.Errorf("asked for the credentials of %s", host)
			}
			return credentials.Credential{Username: "joe", Password: "hush"}, nil
		}),
	})
	sched, gate := fetch.New(ctx, store, fetch.Options{}), make(chan struct{})
	src := source.Mux{Registry: reg}
	c, err := image.New(ctx, image.Options{
		Dir: filepath.Join(dir, "index"), Source: src, Store: store, Records: store.Records(), Scheduler: sched,
		Profiles: what, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		Fill: image.Fill{Enabled: fill, Delay: time.Millisecond, Share: 100, Piece: 64 << 10, Checkpoint: 64 << 10, Retry: time.Millisecond,
			Room: func(int64) bool { <-gate; return true }},
	})
	if err != nil {
		t.Fatal(err)
	}
	l := &laboratory{node: &node{c, store, dir}, src: src, begin: sync.OnceFunc(func() { close(gate) })}
	t.Cleanup(func() {
		l.begin()
		sched.Close()
		if err := errors.Join(c.Close(), reg.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return l
}

// disturbance is a way for a registry to answer badly.
type disturbance struct {
	name  string
	fault func(s *site) testreg.Fault
	// passes: whoever asks again does not notice one of it.
	passes bool
	// fails: nothing works while it lasts, except what is not asked for.
	fails bool
	// storage: only storage answers like this, as a registry would mean it.
	storage bool
	// token: the token server answers like this, and all tokens have expired.
	token bool
	stall bool
	// content: the answer is in order but for the bytes themselves.
	content bool
}

// the makes a fault that does not depend on the site.
func the(f testreg.Fault) func(*site) testreg.Fault {
	return func(*site) testreg.Fault { return f }
}

func disturbances() []disturbance {
	to := func(where func(s *site) string) func(*site) testreg.Fault {
		return func(s *site) testreg.Fault { return testreg.Redirect(where(s) + "/elsewhere?signature=hush") }
	}
	return []disturbance{
		{name: "500", fault: the(testreg.Status(500)), passes: true, fails: true},
		{name: "503 burst", fault: the(testreg.Status(503)), passes: true, fails: true},
		{name: "429", fault: the(testreg.TooMany(time.Second)), passes: true, fails: true},
		{name: "429 for hours", fault: the(testreg.TooMany(2 * time.Hour)), fails: true},
		{name: "401", fault: the(testreg.Status(401)), fails: true},
		{name: "403", fault: the(testreg.Status(403)), fails: true},
		{name: "404", fault: the(testreg.NotFound())},
		{name: "416", fault: the(testreg.Status(416))},
		{name: "expired redirect, 403", fault: the(testreg.Status(403)), storage: true},
		{name: "expired redirect, 410", fault: the(testreg.Status(410)), storage: true},
		{name: "expired token", fault: the(testreg.Pass()), passes: true, token: true},
		{name: "expired token, 401", fault: the(testreg.Status(401)), fails: true, token: true},
		{name: "expired token, 503", fault: the(testreg.Status(503)), fails: true, passes: true, token: true},
		{name: "200 for a range", fault: the(testreg.IgnoreRange()), passes: true},
		{name: "short body", fault: the(testreg.ShortBody(100)), passes: true},
		{name: "short range", fault: the(testreg.ShortRange(1000)), passes: true},
		{name: "shifted", fault: the(testreg.Shift(3)), passes: true},
		{name: "wrong bytes", fault: the(testreg.WrongBytes()), passes: true, content: true},
		{name: "long body", fault: the(testreg.LongBody(5)), passes: true},
		{name: "no Content-Range", fault: the(testreg.ContentRange("")), passes: true},
		{name: "wrong Content-Range", fault: the(testreg.ContentRange("bytes 3-9/77")), passes: true},
		{name: "reset", fault: the(testreg.Reset(-1)), passes: true, fails: true},
		{name: "reset in the body", fault: the(testreg.Reset(200)), passes: true},
		{name: "stall", fault: the(testreg.Stall(-1)), passes: true, fails: true, stall: true},
		{name: "stall in the body", fault: the(testreg.Stall(200)), passes: true, stall: true},
		{name: "unknown certificate", fault: to(func(s *site) string { return s.secure }), fails: true},
		{name: "TLS to plain HTTP", fault: to(func(s *site) string { return "https://" + s.StorageHost() }), fails: true},
		{name: "handshake broken off", fault: to(func(s *site) string { return s.closed }), passes: true, fails: true},
	}
}

// at is what a disturbance answers of what an operation asks for.
func (d disturbance) at(op []testreg.Match) []testreg.Match {
	if d.token {
		return []testreg.Match{{Path: "/token"}}
	}
	out := slices.Clone(op)
	for i := range out {
		out[i].Storage = d.storage
	}
	return out
}

// patience is that of the node: little for a disturbance that uses it all up again and
// again, more for one that has to be told from a machine under load.
func (d disturbance) patience(lasts bool) time.Duration {
	switch {
	case d.stall && lasts:
		return 25 * time.Millisecond
	case d.stall:
		return 150 * time.Millisecond
	}
	return patience
}

// TestFaultMatrix has every operation meet every fault: once while it lasts, and after
// it has ended; and once when it passes by itself.
func TestFaultMatrix(t *testing.T) {
	w := newWorld(t)
	for i, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			for k, d := range disturbances() {
				if testing.Short() && (i+k)%shortStride != 0 {
					continue
				}
				t.Run(d.name, func(t *testing.T) {
					lasting(t, w, op, d)
					if d.passes && (!op.stream || !d.content) {
						passing(t, w, op, d)
					}
				})
			}
		})
	}
}

// shortStride: a short run tries one fault of so many on each operation, and each fault
// on one operation of so many.
const shortStride = 4

// memoryDir is a directory whose files need not be waited for.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "faults")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// begin prepares an operation. The result puts it to work.
func begin(t *testing.T, w *world, op operation, d disturbance, lasts bool) (*site, []testreg.Match, func() error) {
	t.Helper()
	s := w.site(t)
	l := s.open(t, d.patience(lasts), op.profiles, op.fill)
	at, run := op.prepare(t, s, l)
	if d.token {
		s.ExpireTokens()
		s.ExpireRedirects()
	}
	return s, d.at(at), func() error { return inTime(t, run) }
}

// inTime runs something that has to end by itself.
func inTime(t *testing.T, run func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	select {
	case err := <-done:
		if ctx.Err() != nil {
			t.Errorf("only the deadline ended it: %v", err)
		}
		if errors.Is(err, errWrongByte) {
			t.Error(err)
		}
		return err
	case <-time.After(2 * patience):
		t.Fatal("it does not even end with its deadline")
		return nil
	}
}

func lasting(t *testing.T, w *world, op operation, d disturbance) {
	t.Helper()
	s, at, run := begin(t, w, op, d, true)
	for _, m := range at {
		s.Always(m, d.fault(s))
	}
	err := run()
	asked := 0
	for _, m := range at {
		asked += s.Count(m).Requests
	}
	switch {
	case err != nil:
		s.checkClear(t, op, err)
	case d.fails && asked > 0 && !op.spared:
		t.Error("nothing was noticed of it")
	}
	s.Heal()
	for end := time.Now().Add(patience); ; {
		if err = run(); err == nil {
			return
		}
		// The background has its own time, and a machine under load stalls too.
		if !op.fill && !d.stall || time.Now().After(end) {
			t.Fatalf("after it has ended: %v", err)
		}
	}
}

func passing(t *testing.T, w *world, op operation, d disturbance) {
	t.Helper()
	s, at, run := begin(t, w, op, d, false)
	times := 2
	if d.stall {
		times = 1 // which takes its time
	}
	for _, m := range at {
		s.On(m, testreg.Times(times, d.fault(s))...)
	}
	for end := time.Now().Add(patience); ; {
		err := run()
		if err == nil {
			return
		}
		if !op.fill || time.Now().After(end) {
			t.Fatalf("though it passes: %v", err)
		}
	}
}

// checkClear is what somebody who reads an error wants of it.
func (s *site) checkClear(t *testing.T, op operation, err error) {
	t.Helper()
	if errors.Is(err, errVerdict) {
		return
	}
	switch kind := fserr.KindOf(err); kind {
	case fserr.NotExist, fserr.Unauthorized, fserr.Unavailable, fserr.Corrupt, fserr.Unsupported:
	default:
		t.Errorf("kind %v: %v", kind, err)
	}
	parts := []string{s.Host(), "team/app"}
	if op.fill { // whose layer is of no one image
		parts = []string{s.lazy.Layers[0].Digest.String()}
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %s: %v", part, err)
		}
	}
	if fserr.Is(err, fserr.Unauthorized) && !strings.Contains(err.Error(), "check the credentials for "+s.Host()) {
		t.Errorf("the error does not say what to do: %v", err)
	}
	for _, secret := range []string{"hush", "signature=", "token-"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
	if strings.ContainsAny(err.Error(), "\r\n") || len(err.Error()) > 2000 {
		t.Errorf("the error is not one line: %q", err)
	}
}
