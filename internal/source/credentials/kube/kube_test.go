package kube_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/nineply/nineply/internal/source/credentials/kube"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is an API server that knows secrets.
type server struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	version int
	secrets map[string]map[string]any // by namespace/name
	events  []map[string]any
	changed chan struct{} // closed at the next change
	token   string
	down    int // status of every answer, if not 0
	expired bool
	lists   int
	bad     []string // requests that should not have been made
}

func newServer(t *testing.T) *server {
	s := &server{t: t, version: 10, secrets: map[string]map[string]any{}, changed: make(chan struct{}), token: "right"}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	namespace := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/api/v1/"), "namespaces/"), "secrets")
	namespace = strings.Trim(namespace, "/")
	s.mu.Lock()
	switch {
	case r.Header.Get("Authorization") != "Bearer "+s.token:
		s.mu.Unlock()
		s.refuse(w, 401, "Unauthorized")
		return
	case s.down != 0:
		down := s.down
		s.mu.Unlock()
		s.refuse(w, down, "the server is down")
		return
	case q.Get("fieldSelector") != "type=kubernetes.io/dockerconfigjson" || r.Method != http.MethodGet:
		s.bad = append(s.bad, r.URL.String())
	}
	s.mu.Unlock()
	if q.Get("watch") != "" {
		s.watch(w, r, namespace)
		return
	}
	s.list(w, namespace, q.Get("continue"))
}

func (s *server) refuse(w http.ResponseWriter, code int, message string) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "code": code, "message": message})
}

// list gives one secret a page.
func (s *server) list(w http.ResponseWriter, namespace, next string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next == "" {
		s.lists++
	}
	var items []map[string]any
	for id, sec := range s.secrets {
		if namespace == "" || strings.HasPrefix(id, namespace+"/") {
			items = append(items, sec)
		}
	}
	meta := map[string]any{"resourceVersion": strconv.Itoa(s.version)}
	if next == "" && len(items) > 1 {
		items, meta["continue"] = items[:0], "more"
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "SecretList", "metadata": meta, "items": items})
}

func (s *server) watch(w http.ResponseWriter, r *http.Request, namespace string) {
	since, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	sent := 0
	_ = http.NewResponseController(w).Flush()
	for {
		s.mu.Lock()
		changed, expired := s.changed, s.expired
		events := s.events[min(sent, len(s.events)):]
		sent = len(s.events)
		s.expired = false
		s.mu.Unlock()
		if expired {
			_, _ = fmt.Fprintln(w, `{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version"}}`)
			return
		}
		for _, e := range events {
			object := e["object"].(map[string]any)["metadata"].(map[string]any)
			if v, _ := strconv.Atoi(object["resourceVersion"].(string)); v > since && (namespace == "" || object["namespace"] == namespace) {
				_ = json.NewEncoder(w).Encode(e)
			}
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// set changes a secret; a nil keyring removes it.
func (s *server) set(id, config string) {
	s.put(id, "kubernetes.io/dockerconfigjson", config)
}

func (s *server) put(id, kind, config string) {
	namespace, name, _ := strings.Cut(id, "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	sec := map[string]any{
		"metadata": map[string]any{"name": name, "namespace": namespace, "resourceVersion": strconv.Itoa(s.version)},
		"type":     kind,
		"data":     map[string]any{".dockerconfigjson": base64.StdEncoding.EncodeToString([]byte(config))},
	}
	event := "MODIFIED"
	if config == "" {
		event = "DELETED"
		delete(s.secrets, id)
	} else {
		s.secrets[id] = sec
	}
	s.events = append(s.events, map[string]any{"type": event, "object": sec})
	s.wake()
}

// do changes the server and wakes its watches.
func (s *server) do(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
	s.wake()
}

func (s *server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func auths(host, user string) string {
	return fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":"hush"}}}`, host, user)
}

// config writes a kubeconfig with a user.
func (s *server) config(user string) string {
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	return writeFile(s.t, "kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: here
contexts:
- {name: other, context: {cluster: nowhere, user: nobody}}
- {name: here, context: {cluster: c, user: u}}
clusters:
- name: c
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: u
  user: %s
`, s.URL, ca, user))
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, o kube.Options) *kube.Source {
	t.Helper()
	if o.FirstWait == 0 {
		o.FirstWait = 20 * time.Second
	}
	o.RetryInitial, o.RetryMax = time.Millisecond, 5*time.Millisecond
	s, err := kube.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func users(t *testing.T, s *kube.Source, host, repository string) string {
	t.Helper()
	list, err := s.Credentials(t.Context(), host, repository)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(list))
	for i, c := range list {
		names[i] = c.Username
	}
	return strings.Join(names, " ")
}

// eventually waits for what another goroutine brings about.
func eventually(t *testing.T, s *kube.Source, host, repository, want string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got := users(t, s, host, repository)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s/%s: %q, want %q (%v)", host, repository, got, want, s.Err())
		}
		time.Sleep(time.Millisecond)
	}
}

func TestSecrets(t *testing.T) {
	srv := newServer(t)
	srv.set("a/one", auths("reg.example", "a"))
	srv.set("b/two", auths("reg.example", "b"))
	srv.set("b/broken", "hush, no JSON")
	srv.put("b/other", "Opaque", auths("reg.example", "opaque"))
	srv.set("c/path", auths("reg.example/team", "team"))
	core, logs := observer.New(zap.DebugLevel)
	s := open(t, kube.Options{Kubeconfig: srv.config("{token: right}"), Logger: zap.New(core)})
	if got := users(t, s, "reg.example", "team/app"); got != "team a b" {
		t.Errorf("%q", got)
	}
	if got := users(t, s, "reg.example:5000", "team/app"); got != "" {
		t.Errorf("another port: %q", got)
	}
	srv.set("a/one", auths("reg.example", "renewed"))
	eventually(t, s, "reg.example", "x", "renewed b")
	srv.set("b/two", "")
	eventually(t, s, "reg.example", "x", "renewed")
	srv.set("d/new", auths("new.example", "new"))
	eventually(t, s, "new.example", "x", "new")

	// The watch expires, and things change meanwhile.
	srv.do(func() {
		srv.expired = true
		srv.events = nil
		delete(srv.secrets, "d/new")
	})
	eventually(t, s, "new.example", "x", "")

	// The server fails: what was known stays, and comes up to date afterwards.
	srv.do(func() { srv.down = 503; srv.expired = true })
	for s.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if got := users(t, s, "reg.example", "x"); got != "renewed" {
		t.Errorf("without the API server: %q", got)
	}
	if err := s.Err(); !strings.Contains(err.Error(), "the server is down") {
		t.Errorf("status: %v", err)
	}
	srv.do(func() { srv.down = 0 })
	srv.set("a/one", auths("reg.example", "again"))
	eventually(t, s, "reg.example", "x", "again")
	if err := s.Err(); err != nil {
		t.Errorf("status afterwards: %v", err)
	}
	for _, e := range logs.All() {
		if text := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(text, "hush") || strings.Contains(text, "right") {
			t.Errorf("a secret is logged: %s", text)
		}
	}
	if len(srv.bad) > 0 {
		t.Errorf("more was asked for than pull secrets: %v", srv.bad)
	}
}

func TestNamespaces(t *testing.T) {
	srv := newServer(t)
	for _, n := range []string{"a", "b", "c"} {
		srv.set(n+"/s", auths("reg.example", n))
	}
	s := open(t, kube.Options{Kubeconfig: srv.config("{token: right}"), Namespaces: []string{"c", "a", "c"}})
	if got := users(t, s, "reg.example", "x"); got != "a c" {
		t.Errorf("%q", got)
	}
	srv.set("b/s", auths("reg.example", "changed"))
	srv.set("c/s", auths("reg.example", "new"))
	eventually(t, s, "reg.example", "x", "a new")
	for _, bad := range [][]string{{"../x"}, {"a/b"}, {""}, {"A"}, make([]string, kube.MaxNamespaces+1)} {
		if _, err := kube.New(t.Context(), kube.Options{Namespaces: bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// TestTokenFile has a token replaced while a watch runs.
func TestTokenFile(t *testing.T) {
	srv := newServer(t)
	srv.set("a/s", auths("reg.example", "a"))
	file := writeFile(t, "token", "right\n")
	s := open(t, kube.Options{Kubeconfig: srv.config(fmt.Sprintf("{token: stale, tokenFile: %q}", file))})
	if got := users(t, s, "reg.example", "x"); got != "a" {
		t.Fatalf("%q", got)
	}
	srv.do(func() { srv.token = "next"; srv.expired = true })
	for s.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if err := os.WriteFile(file, []byte("next"), 0o600); err != nil {
		t.Fatal(err)
	}
	srv.set("a/s", auths("reg.example", "b"))
	eventually(t, s, "reg.example", "x", "b")
}

func TestServiceAccount(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	s := open(t, kube.Options{FirstWait: time.Millisecond})
	if got := users(t, s, "reg.example", "x"); got != "" {
		t.Errorf("%q", got)
	}
	for s.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if err := s.Err(); !strings.Contains(err.Error(), "not a pod") {
		t.Error(err)
	}
}

// TestBrokenConfig looks at what is said of a kubeconfig that cannot be used.
func TestBrokenConfig(t *testing.T) {
	const whole = "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "no context"},
		{"no YAML", "a: [hush", "not the YAML"},
		{"no user", whole + "clusters: [{name: c, cluster: {server: 'https://x'}}]", `no user "u"`},
		{"no cluster", whole + "users: [{name: u, user: {token: hush}}]", `no cluster "c"`},
		{"program", whole + "clusters: [{name: c, cluster: {server: 'https://x'}}]\nusers: [{name: u, user: {exec: {command: hush}}}]", "which is not run"},
		{"in the clear", whole + "clusters: [{name: c, cluster: {server: 'http://k.example'}}]\nusers: [{name: u, user: {token: hush}}]", "not reached by https"},
		{"address with a password", whole + "clusters: [{name: c, cluster: {server: 'https://u:hush@x'}}]\nusers: [{name: u, user: {}}]", "usable server address"},
		{"CA", whole + "clusters: [{name: c, cluster: {server: 'https://x', certificate-authority-data: aHVzaA==}}]\nusers: [{name: u, user: {}}]", "CA certificate"},
		{"client certificate", whole + "clusters: [{name: c, cluster: {server: 'https://x'}}]\nusers: [{name: u, user: {client-certificate-data: aHVzaA==, client-key-data: '!'}}]", "client key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, kube.Options{Kubeconfig: writeFile(t, "kubeconfig", tt.text), FirstWait: time.Millisecond})
			if got := users(t, s, "reg.example", "x"); got != "" {
				t.Errorf("%q", got)
			}
			for s.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			if err := s.Err(); !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hush") {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	asked := make(chan string, 8)
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header.Get("Authorization") }))
	defer other.Close()
	srv := newServer(t)
	srv.Config.Handler = http.RedirectHandler(other.URL, http.StatusTemporaryRedirect)
	s := open(t, kube.Options{Kubeconfig: srv.config("{token: right}"), FirstWait: time.Millisecond})
	users(t, s, "reg.example", "x")
	for s.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if len(asked) != 0 {
		t.Errorf("a redirect was followed with %q", <-asked)
	}
}

func TestClosed(t *testing.T) {
	srv := newServer(t)
	s := open(t, kube.Options{Kubeconfig: srv.config("{token: right}")})
	users(t, s, "reg.example", "x")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	users(t, s, "reg.example", "x") // does not wait, and starts nothing
}
