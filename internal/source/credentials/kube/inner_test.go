package kube

import (
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestInCluster uses the files that a pod finds.
func TestInCluster(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer of the pod" || r.URL.Path != "/api/v1/namespaces/default/secrets" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{"resourceVersion": "7"}, "items": []any{}})
	}))
	defer srv.Close()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"token":  "of the pod\n",
		"ca.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	account, err := inCluster(dir, host, port)
	if err != nil {
		t.Fatal(err)
	}
	a := &api{account: account, client: account.client()}
	defer a.close()
	if version, err := a.list(t.Context(), "default", func(*secret) {}); err != nil || version != "7" {
		t.Errorf("%q, %v", version, err)
	}
	if _, err := a.watch(t.Context(), "other", "7", time.Second, func(*secret, bool) {}); err == nil {
		t.Error("what is forbidden was watched")
	}
	for _, missing := range []string{"ca.crt"} {
		if err := os.Remove(filepath.Join(dir, missing)); err != nil {
			t.Fatal(err)
		}
		if _, err := inCluster(dir, host, port); err == nil {
			t.Error("a pod without", missing)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://x'}}]\nusers: [{name: u, user: {token: t}}]\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parse(data, "/nowhere")
		if err == nil && (a.server == nil || a.tls == nil || a.server.Host == "") {
			t.Error("half an account")
		}
	})
}

func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"type":"ADDED","object":{"metadata":{"name":"a","namespace":"b","resourceVersion":"1"},"type":"kubernetes.io/dockerconfigjson","data":{".dockerconfigjson":"e30="}}}`))
	f.Add([]byte(`{"type":"ERROR","object":{"code":410}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		version, err := apply(line, func(s *secret, _ bool) { _ = s.id() })
		if err != nil && version != "" {
			t.Error("a version of what failed")
		}
	})
}
