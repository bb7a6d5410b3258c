package registry

import (
	"fmt"
	"io"
	"net/http"
	"strings"
)

// guess is whether a session may take it that the host asks for the same as it did
// for other repositories.
type guess struct {
	made, right, wrong bool
}

// outcome notes how a request ended, and reports that it should be made again without
// guessing.
func (g *guess) outcome(failed bool) bool {
	if !g.made || g.right || g.wrong {
		return false
	}
	g.right, g.wrong = !failed, failed
	return failed
}

// foresee answers a request without proof as the host would, without asking it: that
// saves the first request to a repository one of its round trips. It gives nil if it
// is not known what the host would say.
func (s *session) foresee(req *http.Request) *http.Response {
	if req.Header.Get("Authorization") != "" {
		return nil
	}
	challenge := s.endpoint.challenge.Load()
	if challenge == nil || !sameOrigin(req.URL, s.endpoint.base) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guess.wrong {
		return nil
	}
	s.guess.made = true
	if req.Body != nil {
		_ = req.Body.Close() // nothing was sent, and it is opened again
	}
	return &http.Response{
		Status: "401 Unauthorized", StatusCode: http.StatusUnauthorized,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Www-Authenticate": {*challenge}}, Body: io.NopCloser(strings.NewReader("")), Request: req,
	}
}

// learn keeps what the host asks for, if it asks the same of every repository.
func (e *endpoint) learn(repository string, resp *http.Response) {
	if resp.Request == nil || !sameOrigin(resp.Request.URL, e.base) {
		return
	}
	scheme, params, ok := parseChallenge(resp.Header.Get("Www-Authenticate"))
	if !ok {
		return
	}
	var challenge string
	switch {
	case strings.EqualFold(scheme, "Basic"):
		challenge = `Basic realm="registry"`
	case !strings.EqualFold(scheme, "Bearer") || params["realm"] == "" || params["error"] != "":
		return
	case params["scope"] != "" && !strings.HasPrefix(params["scope"], "repository:"+repository+":"):
		return // the host has its own idea of the scope
	default:
		challenge = fmt.Sprintf(`Bearer realm="%s",service="%s"`, params["realm"], params["service"])
	}
	e.challenge.Store(&challenge)
}

// maxChallenge bounds the challenge that is looked at.
const maxChallenge = 4 << 10

// parseChallenge takes the first challenge of a WWW-Authenticate field apart. Values
// with quoted quotes are none that a registry sends, and not taken.
func parseChallenge(s string) (scheme string, params map[string]string, ok bool) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(s), " ")
	if scheme == "" || len(s) > maxChallenge || strings.Contains(s, `\`) {
		return "", nil, false
	}
	params = map[string]string{}
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimLeft(rest, ", \t") {
		name, after, found := strings.Cut(rest, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if !found || name == "" || strings.ContainsAny(name, " \t,\"") {
			return "", nil, false
		}
		var value string
		if quoted, isQuoted := strings.CutPrefix(after, `"`); isQuoted {
			if value, rest, found = strings.Cut(quoted, `"`); !found {
				return "", nil, false
			}
		} else {
			i := strings.IndexAny(after, ", \t")
			if i < 0 {
				i = len(after)
			}
			value, rest = after[:i], after[i:]
		}
		params[name] = value
	}
	return scheme, params, true
}
