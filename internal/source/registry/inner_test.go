package registry

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source/hosts"
)

func closeAtEnd(t *testing.T, r *Registry) {
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// age makes the next look at a registry read the files again.
func (r *Registry) age(registry string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.origins[registry]; o != nil {
		o.checked = time.Now().Add(-2 * recheck)
	}
}

func TestHostConfigurationIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	r := New(Options{Hosts: hosts.Config{Dirs: []string{dir}}})
	closeAtEnd(t, r)
	addr := func() string {
		t.Helper()
		eps, err := r.endpoints("example.com")
		if err != nil {
			t.Fatal(err)
		}
		return eps[0].Addr
	}
	file := filepath.Join(dir, "example.com", "hosts.toml")
	if got := addr(); got != "example.com" {
		t.Errorf("without a file: %s", got)
	}
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"one.example", "the-other.example"} {
		if err := os.WriteFile(file, fmt.Appendf(nil, "server = \"https://%s\"", host), 0o600); err != nil {
			t.Fatal(err)
		}
		r.age("example.com")
		if got := addr(); got != host {
			t.Errorf("after a change: %s, want %s", got, host)
		}
		before, _ := r.endpoints("example.com")
		r.age("example.com")
		if after, _ := r.endpoints("example.com"); after[0] != before[0] {
			t.Error("made anew without a change")
		}
	}
	if err := os.WriteFile(file, []byte("server ="), 0o600); err != nil {
		t.Fatal(err)
	}
	r.age("example.com")
	if _, err := r.endpoints("example.com"); !fserr.Is(err, fserr.Invalid) {
		t.Errorf("broken file: %v", err)
	}
}

func TestBounds(t *testing.T) {
	r := New(Options{})
	closeAtEnd(t, r)
	for i := range maxOrigins + 20 {
		if _, err := r.endpoints(fmt.Sprintf("h%d.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(r.origins); n > maxOrigins {
		t.Errorf("%d registries are kept", n)
	}
	eps, err := r.endpoints("h.example")
	if err != nil {
		t.Fatal(err)
	}
	first := eps[0].session(t.Context(), "repo-0", actionsPull, nil)
	for i := range maxSessions + 20 {
		eps[0].session(t.Context(), fmt.Sprintf("repo-%d", i), actionsPull, nil)
	}
	if n := len(eps[0].sessions); n != maxSessions || len(eps[0].sessionOrder) != n {
		t.Errorf("%d sessions are kept, %d in order", n, len(eps[0].sessionOrder))
	}
	if eps[0].session(t.Context(), "repo-0", actionsPull, nil) == first {
		t.Error("the oldest session was not given up")
	}
	b := &blob{registry: r, known: map[*endpoint]*knowledge{}}
	for range 2 * maxKnown {
		b.distrust(&endpoint{})
	}
	if n := len(b.known); n > maxKnown {
		t.Errorf("%d hosts are known to a blob", n)
	}
}

func TestConcurrentLookups(t *testing.T) {
	r := New(Options{})
	closeAtEnd(t, r)
	var wg sync.WaitGroup
	first := make([]*endpoint, 16)
	for i := range first {
		wg.Go(func() {
			eps, err := r.endpoints("example.com")
			if err != nil {
				t.Error(err)
				return
			}
			first[i] = eps[0]
		})
	}
	wg.Wait()
	for _, e := range first {
		if e != first[0] {
			t.Fatal("callers at the same time got different hosts")
		}
	}
}

func TestSameOrigin(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"https://h.example/v2", "https://h.example:443/x", true},
		{"http://h.example/v2", "http://H.example:80/x", true},
		{"https://h.example", "http://h.example", false},
		{"https://h.example", "https://h.example:8443", false},
		{"https://h.example", "https://h.example.evil", false},
		{"https://h.example", "https://h.example@evil/", false},
	} {
		a, errA := url.Parse(tt.a)
		b, errB := url.Parse(tt.b)
		if errA != nil || errB != nil || sameOrigin(a, b) != tt.want {
			t.Errorf("%s, %s: want %v", tt.a, tt.b, tt.want)
		}
	}
}

func TestSleep(t *testing.T) {
	if err := sleep(t.Context(), 0); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sleep(ctx, time.Hour); err == nil {
		t.Error("a sleep that outlives its context")
	}
}

func TestClientForRedirects(t *testing.T) {
	r := New(Options{})
	closeAtEnd(t, r)
	e, err := r.newEndpoint("h.example", hosts.Host{Scheme: "https", Addr: "h.example", Path: "/v2", SkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]bool{"https://h.example:9000/x": true, "https://storage.example/x": false} {
		u, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		transport, ok := e.client(u).Transport.(counting)
		if !ok || transport.TLSClientConfig.InsecureSkipVerify != want {
			t.Errorf("%s: verification skipped: %v, want %v", to, !want, want)
		}
	}
}
