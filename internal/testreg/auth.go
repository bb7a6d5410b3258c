package testreg

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

type token struct {
	scopes []string
}

// ExpireTokens makes every token given out so far invalid.
func (r *Registry) ExpireTokens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.tokens)
}

// authorize answers with a challenge unless the request may go on.
func (r *Registry) authorize(w http.ResponseWriter, q *http.Request, repo string) bool {
	switch r.opts.auth {
	case "":
		return true
	case "basic":
		if user, pass, ok := q.BasicAuth(); ok && r.known(user, pass) {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="testreg"`)
	default:
		scope := r.scope(q, repo)
		if r.tokenCovers(strings.TrimPrefix(q.Header.Get("Authorization"), "Bearer "), scope) {
			return true
		}
		challenge := fmt.Sprintf(`Bearer realm="%s/token",service="testreg"`, r.server.URL)
		if scope != "" {
			challenge += fmt.Sprintf(`,scope=%q`, scope)
		}
		w.Header().Set("WWW-Authenticate", challenge)
	}
	refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

// scope is what a token needs for the request.
func (r *Registry) scope(q *http.Request, repo string) string {
	if r.opts.tokenScope != "" {
		return r.opts.tokenScope
	}
	if repo == "" {
		return ""
	}
	action := "pull"
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		action = "pull,push"
	}
	return "repository:" + repo + ":" + action
}

func (r *Registry) known(user, pass string) bool {
	return subtle.ConstantTimeCompare([]byte(user+":"+pass), []byte(r.opts.user+":"+r.opts.pass)) == 1
}

func (r *Registry) tokenCovers(tok, scope string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tokens[tok]
	if !ok {
		return false
	}
	if scope == "" {
		return true
	}
	i := strings.LastIndexByte(scope, ':')
	for _, want := range strings.Split(scope[i+1:], ",") {
		if !slices.ContainsFunc(t.scopes, func(s string) bool {
			j := strings.LastIndexByte(s, ':')
			return j >= 0 && s[:j] == scope[:i] && slices.Contains(strings.Split(s[j+1:], ","), want)
		}) {
			return false
		}
	}
	return true
}

// serveToken gives out tokens the two ways the distribution project describes:
// GET with basic authentication, POST with a refresh token or a password.
func (r *Registry) serveToken(w http.ResponseWriter, q *http.Request) {
	var scopes []string
	allowed := r.opts.user == ""
	switch q.Method {
	case http.MethodGet:
		for _, s := range q.URL.Query()["scope"] {
			scopes = append(scopes, strings.Fields(s)...)
		}
		if user, pass, ok := q.BasicAuth(); ok {
			allowed = r.known(user, pass)
		}
	case http.MethodPost:
		if err := q.ParseForm(); err != nil {
			refuse(w, http.StatusBadRequest, "UNSUPPORTED", err.Error())
			return
		}
		scopes = strings.Fields(q.PostForm.Get("scope"))
		allowed = q.PostForm.Get("refresh_token") == r.opts.pass && r.opts.pass != "" ||
			r.known(q.PostForm.Get("username"), q.PostForm.Get("password"))
	}
	if !allowed {
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "unknown user or password")
		return
	}
	r.mu.Lock()
	r.nextID++
	tok := fmt.Sprintf("token-%d", r.nextID)
	r.tokens[tok] = token{scopes: scopes}
	r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": tok, "access_token": tok, "expires_in": 300})
}
