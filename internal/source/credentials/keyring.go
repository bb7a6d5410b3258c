package credentials

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

const (
	// maxKeys bounds the entries of one keyring.
	maxKeys = 4096
	// maxLabels bounds the parts of a host name that are compared.
	maxLabels = 128
)

// hub is docker's registry, under the one of its names that is used here.
const hub = "docker.io"

// Canonical is the one name of a host: lower case, and docker's hub whatever it is
// called. A port stays.
func Canonical(host string) string {
	host = strings.ToLower(host)
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry-1.docker.io:443":
		return hub
	}
	return host
}

// Keyring is the "auths" of a docker configuration: credentials by host, with its
// port, and perhaps by the beginning of the path.
type Keyring []key

type key struct {
	host string // canonical; its labels may be patterns
	path string // without slashes at the ends; empty: all repositories
	cred Credential
}

// authEntry is one of "auths".
type authEntry struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// ParseKeyring reads the "auths" of a docker config.json, which is also what a
// Kubernetes secret of type dockerconfigjson holds. Errors name the entry and never
// what is in it.
func ParseKeyring(data []byte) (Keyring, error) {
	var file struct {
		Auths map[string]authEntry `json:"auths"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, describe(err)
	}
	return newKeyring(file.Auths)
}

func newKeyring(auths map[string]authEntry) (Keyring, error) {
	if len(auths) > maxKeys {
		return nil, fmt.Errorf("%d entries, at most %d are read", len(auths), maxKeys)
	}
	ring := make(Keyring, 0, len(auths))
	for name, a := range auths {
		k, ok := parseKey(name)
		if !ok {
			return nil, fmt.Errorf("entry %q is no host", name)
		}
		var err error
		if k.cred, err = a.credential(); err != nil {
			return nil, fmt.Errorf("entry %q: %w", name, err)
		}
		if k.cred != (Credential{}) {
			ring = append(ring, k)
		}
	}
	return Merge(ring), nil
}

// Merge makes one keyring of several: the most exact first, and what is equally exact
// in the order given.
func Merge(rings ...Keyring) Keyring {
	out := slices.Concat(rings...)
	slices.SortStableFunc(out, func(a, b key) int {
		if len(a.path) != len(b.path) {
			return len(b.path) - len(a.path)
		}
		if a.glob() != b.glob() {
			if b.glob() {
				return -1
			}
			return 1
		}
		return strings.Compare(a.host+"/"+a.path, b.host+"/"+b.path)
	})
	return out
}

func (k key) glob() bool { return strings.ContainsAny(k.host, "*?") }

// describe is an error of decoding JSON without the bytes around it.
func describe(err error) error {
	var syntax *json.SyntaxError
	var typed *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("no JSON at byte %d", syntax.Offset)
	case errors.As(err, &typed):
		return fmt.Errorf("%s at byte %d is of the wrong type", typed.Field, typed.Offset)
	}
	return errors.New("no JSON")
}

func (a authEntry) credential() (Credential, error) {
	c := Credential{Username: a.Username, Password: a.Password, RefreshToken: a.IdentityToken, AccessToken: a.RegistryToken}
	if a.Auth == "" {
		return c, nil
	}
	plain, err := ParseAuth(a.Auth)
	c.Username, c.Password = plain.Username, plain.Password
	return c, err
}

// ParseAuth reads "auth" of a docker configuration: user and password in base64.
// Errors do not quote it.
func ParseAuth(auth string) (Credential, error) {
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(auth))
	if err != nil {
		return Credential{}, errors.New("auth is not base64")
	}
	user, password, ok := strings.Cut(string(plain), ":")
	if !ok {
		return Credential{}, errors.New("auth is not base64 of user:password")
	}
	return Credential{Username: user, Password: strings.TrimRight(password, "\x00")}, nil
}

// parseKey takes a name of "auths" apart: a host, an old address such as
// "https://index.docker.io/v1/", or a host with a path. "/v1" and "/v2" are where
// the API is, and no part of a repository.
func parseKey(name string) (key, bool) {
	rest, _ := strings.CutPrefix(name, "https://")
	rest, _ = strings.CutPrefix(rest, "http://")
	host, repository, _ := strings.Cut(rest, "/")
	if host == "" || strings.ContainsAny(host, "@ \t\r\n") || strings.Count(host, ".") >= maxLabels {
		return key{}, false
	}
	repository = strings.Trim(repository, "/")
	for _, api := range []string{"v1", "v2"} {
		if repository == api {
			repository = ""
		}
		repository = strings.TrimPrefix(repository, api+"/")
	}
	return key{host: Canonical(host), path: repository}, true
}

// Find gives the credentials for a repository on a host, the most exact first.
func (r Keyring) Find(host, repository string) []Credential {
	host = Canonical(host)
	var out []Credential
	for i := range r {
		if r[i].covers(host, repository) && !slices.Contains(out, r[i].cred) {
			out = append(out, r[i].cred)
		}
	}
	return out
}

// covers compares the path by whole parts: "team" is not "teams".
func (k *key) covers(host, repository string) bool {
	if k.path != "" && repository != k.path && !strings.HasPrefix(repository, k.path+"/") {
		return false
	}
	return k.host == host || matchHost(k.host, host)
}

// matchHost compares label by label, as kubelet does: "*.example.com" is
// "a.example.com", and neither "example.com" nor "a.b.example.com". A port is part
// of the last label and must be the same.
func matchHost(pattern, host string) bool {
	if !strings.ContainsAny(pattern, "*?[") || strings.HasPrefix(host, "[") {
		return false
	}
	want, got := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(want) != len(got) {
		return false
	}
	wantPort, gotPort := portOf(pattern), portOf(host)
	if wantPort != gotPort {
		return false
	}
	for i := range want {
		if ok, err := path.Match(strings.TrimSuffix(want[i], ":"+wantPort), strings.TrimSuffix(got[i], ":"+gotPort)); err != nil || !ok {
			return false
		}
	}
	return true
}

func portOf(host string) string {
	_, port, _ := strings.Cut(host, ":")
	return port
}
