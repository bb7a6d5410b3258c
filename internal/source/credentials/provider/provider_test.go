package provider

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// setup makes a configuration and one plug-in, which counts its runs.
func setup(t *testing.T, script, config string) (*Source, string) {
	t.Helper()
	dir := t.TempDir()
	runs := filepath.Join(dir, "runs")
	put := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	put("cloud", "#!/bin/sh\necho run >> "+runs+"\n"+script, 0o700)
	put("config.yaml", config, 0o600)
	return New(filepath.Join(dir, "config.yaml"), dir), runs
}

const (
	config = `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: cloud
  matchImages: ["*.registry.example", "exact.example/team"]
  defaultCacheDuration: 12h
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  args: [get, now]
  env: [{name: WHO, value: node}]
`
	script = `read request
case "$request" in *'"kind":"CredentialProviderRequest"'*) ;; *) exit 3 ;; esac
echo '{"kind":"CredentialProviderResponse","cacheDuration":"1h","auth":{"*.registry.example":{"username":"'$WHO'","password":"'$1'"}}}'
`
)

func count(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Count(string(text), "run")
}

// TestRenewal: an answer is used for as long as it says, and then another.
func TestRenewal(t *testing.T) {
	s, runs := setup(t, script, config)
	now := time.Unix(1000, 0)
	s.now = func() time.Time { return now }
	ask := func() {
		t.Helper()
		got, err := s.Credentials(t.Context(), "a.registry.example", "team/app")
		if err != nil || len(got) != 1 || got[0].Username != "node" || got[0].Password != "get" {
			t.Fatalf("%d credentials, %v", len(got), err)
		}
	}
	ask()
	ask()
	if n := count(t, runs); n != 1 {
		t.Errorf("run %d times", n)
	}
	now = now.Add(time.Hour)
	ask()
	if n := count(t, runs); n != 2 {
		t.Errorf("run %d times after an hour", n)
	}
}

func TestOthersAreNotAsked(t *testing.T) {
	s, runs := setup(t, script, config)
	for _, image := range [][2]string{{"registry.example", "a"}, {"a.b.registry.example", "a"}, {"a.registry.example:5000", "a"}, {"exact.example", "other/app"}} {
		if got, err := s.Credentials(t.Context(), image[0], image[1]); err != nil || len(got) > 0 {
			t.Errorf("%v: %d credentials, %v", image, len(got), err)
		}
	}
	if n := count(t, runs); n != 0 {
		t.Errorf("run %d times", n)
	}
	// What it says of one host is not for another.
	if got, err := s.Credentials(t.Context(), "exact.example", "team/app"); err != nil || len(got) > 0 {
		t.Errorf("%d credentials, %v", len(got), err)
	}
}

func TestFailures(t *testing.T) {
	for name, tt := range map[string]struct{ script, config string }{
		"exit":      {"echo secret; exit 1", config},
		"no answer": {"echo secret", config},
		"too much":  {"head -c 2000000 /dev/zero", config},
		"kind":      {script, "kind: Other"},
		"path":      {script, strings.Replace(config, "name: cloud", "name: ../cloud", 1)},
		"missing":   {script, strings.Replace(config, "name: cloud", "name: rain", 1)},
	} {
		s, _ := setup(t, tt.script, tt.config)
		got, err := s.Credentials(t.Context(), "a.registry.example", "app")
		if err == nil || len(got) > 0 || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %d credentials, %v", name, len(got), err)
		}
	}
	s, runs := setup(t, script, config+"  tokenAttributes: {serviceAccountTokenAudience: x}\n")
	if got, err := s.Credentials(t.Context(), "a.registry.example", "app"); err != nil || len(got) > 0 || count(t, runs) > 0 {
		t.Errorf("with a token: %d credentials, %v", len(got), err)
	}
}
