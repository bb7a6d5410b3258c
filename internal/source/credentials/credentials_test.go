package credentials_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/nineply/nineply/internal/source/credentials"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fixed(c credentials.Credential, err error) credentials.Source {
	return credentials.Func(func(context.Context, string, string) (credentials.Credential, error) { return c, err })
}

func TestChain(t *testing.T) {
	one, two := credentials.Credential{Username: "one"}, credentials.Credential{Username: "two"}
	broken := errors.New("broken")
	none := fixed(credentials.Credential{}, nil)
	for _, tt := range []struct {
		name string
		of   credentials.Chain
		want []credentials.Credential
		err  error
	}{
		{"none", nil, nil, nil},
		{"nobody knows", credentials.Chain{none, none}, nil, nil},
		{"in order", credentials.Chain{none, fixed(two, nil), fixed(one, nil)}, []credentials.Credential{two, one}, nil},
		{"each once", credentials.Chain{fixed(two, nil), fixed(one, nil), fixed(two, nil)}, []credentials.Credential{two, one}, nil},
		{"broken", credentials.Chain{none, fixed(credentials.Credential{}, broken)}, nil, broken},
		{"broken, and another knows", credentials.Chain{fixed(credentials.Credential{}, broken), fixed(two, nil)}, []credentials.Credential{two}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.of.Credentials(t.Context(), "h", "r")
			if diff := cmp.Diff(tt.want, got); diff != "" || !errors.Is(err, tt.err) {
				t.Errorf("%v, %s", err, diff)
			}
		})
	}
	many := make(credentials.Chain, 100)
	for i := range many {
		many[i] = fixed(credentials.Credential{Username: fmt.Sprint(i)}, nil)
	}
	if got, err := many.Credentials(t.Context(), "h", "r"); err != nil || len(got) != credentials.MaxCandidates {
		t.Errorf("%d candidates, %v", len(got), err)
	}
}

func TestCredentialsPrintNothing(t *testing.T) {
	c := credentials.Credential{Username: "joe", Password: "hush1", RefreshToken: "hush2", AccessToken: "hush3"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{c, &c, []credentials.Credential{c}, struct{ C credentials.Credential }{c}} {
			if text := fmt.Sprintf(verb, v); strings.Contains(text, "hush") || strings.Contains(text, "6875736831") {
				t.Errorf("%s prints %s", verb, text)
			}
		}
	}
	for want, c := range map[string]credentials.Credential{
		"[anonymous]": {}, "[password]": {Username: "joe"}, "[identity token]": {Username: "joe", RefreshToken: "x"}, "[registry token]": {AccessToken: "x"},
	} {
		if got := c.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

const keyring = `{"auths":{
 "reg.example":              {"username":"host","password":"p"},
 "reg.example/team":         {"auth":"dGVhbTpw"},
 "reg.example/team/app":     {"username":"app","password":"p"},
 "reg.example:5000":         {"username":"port","password":"p"},
 "https://old.example/v1/":  {"username":"old","password":"p"},
 "https://old.example/v2/x": {"username":"oldx","password":"p"},
 "*.wild.example":           {"username":"wild","password":"p"},
 "exact.wild.example":       {"username":"exact","password":"p"},
 "*.wild.example:5000":      {"username":"wildport","password":"p"},
 "https://index.docker.io/v1/": {"username":"hub","password":"p"},
 "docker.io/library":        {"username":"library","password":"p"},
 "ID.example":               {"identitytoken":"id"},
 "rt.example":               {"registrytoken":"rt"},
 "[::1]:5000":               {"username":"six","password":"p"},
 "empty.example":            {}
}}`

func TestKeyring(t *testing.T) {
	ring, err := credentials.ParseKeyring([]byte(keyring))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		host, repository string
		want             string
	}{
		{"reg.example", "other", "host"},
		{"REG.example", "other", "host"},
		{"reg.example", "team", "team host"},
		{"reg.example", "team/web", "team host"},
		{"reg.example", "teams/web", "host"},
		{"reg.example", "team/app", "app team host"},
		{"reg.example", "team/app/x", "app team host"},
		{"reg.example", "team/apple", "team host"},
		{"reg.example:5000", "team", "port"},
		{"reg.example:443", "team", ""},
		{"reg.example.evil", "team", ""},
		{"evil.reg.example", "team", ""},
		{"old.example", "x", "oldx old"},
		{"old.example", "y", "old"},
		{"a.wild.example", "x", "wild"},
		{"exact.wild.example", "x", "exact wild"},
		{"a.b.wild.example", "x", ""},
		{"wild.example", "x", ""},
		{"a.wild.example:5000", "x", "wildport"},
		{"a.wild.example:5001", "x", ""},
		{"registry-1.docker.io", "library/alpine", "library hub"},
		{"docker.io", "me/app", "hub"},
		{"index.docker.io", "me/app", "hub"},
		{"id.example", "x", "id"},
		{"rt.example", "x", "rt"},
		{"[::1]:5000", "x", "six"},
		{"[::1]:5001", "x", ""},
		{"empty.example", "x", ""},
		{"", "x", ""},
	} {
		var names []string
		for _, c := range ring.Find(tt.host, tt.repository) {
			names = append(names, c.Username+c.RefreshToken+c.AccessToken)
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%s/%s: %q, want %q", tt.host, tt.repository, got, tt.want)
		}
	}
}

// TestBrokenKeyring looks at what errors tell of a file with secrets in it.
func TestBrokenKeyring(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":     `{"auths": hush`,
		"cut off":     `{"auths":{"a":{"auth":"hush`,
		"wrong type":  `{"auths":{"a":{"auth":["hush"]}}}`,
		"no base64":   `{"auths":{"a.example":{"auth":"hush!"}}}`,
		"no password": `{"auths":{"a.example":{"auth":"aHVzaA=="}}}`,
		"no host":     `{"auths":{"https:///x":{"auth":"aHVzaDpodXNo"}}}`,
		"a user":      `{"auths":{"hush@a.example":{"auth":"aHVzaDpodXNo"}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			ring, err := credentials.ParseKeyring([]byte(text))
			if err == nil {
				t.Fatalf("accepted: %d entries", len(ring))
			}
			if strings.Contains(strings.ReplaceAll(err.Error(), "hush@a.example", ""), "hush") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

func FuzzParseKeyring(f *testing.F) {
	f.Add([]byte(keyring), "a.wild.example:5000", "team/app")
	f.Add([]byte(`{"auths":{"[x].y":{"username":"a"}}}`), "x.y", "a")
	f.Add([]byte(`{"auths":{"a:*":{"username":"a"}}}`), "a:5000", "a")
	f.Fuzz(func(t *testing.T, data []byte, host, repository string) {
		ring, err := credentials.ParseKeyring(data)
		if err != nil {
			return
		}
		for _, c := range ring.Find(host, repository) {
			if c == (credentials.Credential{}) {
				t.Error("an empty credential")
			}
		}
	})
}
