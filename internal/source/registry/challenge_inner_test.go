package registry

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseChallenge(t *testing.T) {
	for _, tt := range []struct {
		text, scheme string
		params       map[string]string
		ok           bool
	}{
		{`Bearer realm="https://a/token",service="a",scope="repository:x:pull,push"`, "Bearer", map[string]string{"realm": "https://a/token", "service": "a", "scope": "repository:x:pull,push"}, true},
		{`bearer Realm = "https://a/token" , error=invalid_token`, "bearer", nil, false},
		{`Bearer realm=https://a/token,service=a`, "Bearer", map[string]string{"realm": "https://a/token", "service": "a"}, true},
		{`Basic`, "Basic", map[string]string{}, true},
		{`Bearer realm="https://a`, "", nil, false},
		{`Bearer realm="a\"b"`, "", nil, false},
		{`Bearer nonsense`, "", nil, false},
		{``, "", nil, false},
	} {
		scheme, params, ok := parseChallenge(tt.text)
		if ok != tt.ok || ok && (scheme != tt.scheme || cmp.Diff(tt.params, params) != "") {
			t.Errorf("%s: %q %v %v", tt.text, scheme, params, ok)
		}
	}
}

func FuzzParseChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://a/token",service="a",scope="repository:x:pull,push"`)
	f.Add(`Basic realm=a , , b=c`)
	f.Fuzz(func(t *testing.T, s string) {
		scheme, params, ok := parseChallenge(s)
		if ok && (scheme == "" || params == nil) {
			t.Error("nothing found in", s)
		}
	})
}
