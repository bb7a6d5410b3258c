package credentials_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/source/credentials"
)

// first is the best that a source knows.
func first(t *testing.T, s credentials.Source, host, repository string) (credentials.Credential, error) {
	t.Helper()
	list, err := s.Credentials(t.Context(), host, repository)
	if err != nil || len(list) == 0 {
		return credentials.Credential{}, err
	}
	return list[0], nil
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDockerConfig(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	log := filepath.Join(dir, "helper.log")
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	helper := `#!/bin/sh
read host
echo "$1 $host" >> ` + log + `
case "$host" in
id.example) echo '{"ServerURL":"x","Username":"<token>","Secret":"identity"}' ;;
none.example) echo 'credentials not found in native keychain'; exit 1 ;;
broken.example) echo 'the keychain is locked'; exit 1 ;;
*) echo '{"ServerURL":"x","Username":"helped","Secret":"by-helper"}' ;;
esac
`
	for _, name := range []string{"docker-credential-one", "docker-credential-all"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(helper), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	source := credentials.DockerConfig(path)
	get := func(host string) (credentials.Credential, error) {
		return first(t, source, host, "x")
	}
	if c, err := get("a.example"); err != nil || c != (credentials.Credential{}) {
		t.Errorf("no file: %v, %v", c, err)
	}
	auth := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	write(t, path, fmt.Sprintf(`{"auths":{"a.example:5000":{"auth":%q},"https://index.docker.io/v1/":{"auth":%q}},
		"credHelpers":{"h.example":"one","id.example":"one","none.example":"one","broken.example":"one"}}`, auth("joe:pw"), auth("hub:pw")))
	for _, tt := range []struct {
		host string
		want credentials.Credential
	}{
		{"a.example:5000", credentials.Credential{Username: "joe", Password: "pw"}},
		{"registry-1.docker.io", credentials.Credential{Username: "hub", Password: "pw"}},
		{"other.example", credentials.Credential{}},
		{"h.example", credentials.Credential{Username: "helped", Password: "by-helper"}},
		{"id.example", credentials.Credential{RefreshToken: "identity"}},
		{"none.example", credentials.Credential{}},
	} {
		if c, err := get(tt.host); err != nil || c != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", tt.host, c, err, tt.want)
		}
	}
	if _, err := get("broken.example"); err == nil || !strings.Contains(err.Error(), "locked") {
		t.Errorf("a broken helper: %v", err)
	}
	write(t, path, `{"credsStore":"all"}`)
	if c, err := get("a.example:5000"); err != nil || c.Username != "helped" {
		t.Errorf("after the file changed: %+v, %v", c, err)
	}
	write(t, path, `{"auths":`)
	if _, err := get("a.example:5000"); err == nil {
		t.Error("a broken file is taken for an empty one")
	}
	if data, err := os.ReadFile(log); err != nil || !strings.Contains(string(data), "get a.example:5000") {
		t.Errorf("the helper was asked for %q, %v", data, err)
	}
}

func TestDockerConfigPlaces(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", "")
	if err := os.Mkdir(filepath.Join(home, ".docker"), 0o755); err != nil {
		t.Fatal(err)
	}
	token := func(s string) string { return fmt.Sprintf(`{"auths":{"a.example":{"registrytoken":%q}}}`, s) }
	write(t, filepath.Join(home, ".docker", "config.json"), token("home"))
	write(t, filepath.Join(home, "config.json"), token("environment"))
	for _, path := range []string{home, filepath.Join(home, "config.json")} {
		if c, err := first(t, credentials.DockerConfig(path), "a.example", "x"); err != nil || c.AccessToken != "environment" {
			t.Errorf("%s: %+v, %v", path, c, err)
		}
	}
	for _, want := range []string{"home", "environment"} {
		if want == "environment" {
			t.Setenv("DOCKER_CONFIG", home)
		}
		if c, err := first(t, credentials.DockerConfig(""), "a.example", "x"); err != nil || c.AccessToken != want {
			t.Errorf("%+v, %v, want %q", c, err, want)
		}
	}
}
