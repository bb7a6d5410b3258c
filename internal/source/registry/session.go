package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/nineply/nineply/internal/source/credentials"
	"github.com/nineply/nineply/internal/source/hosts"
)

const (
	// defaultTokenLife is what the token specification says of a token that does not
	// say how long it is valid.
	defaultTokenLife = 60 * time.Second
	// renewPause is how long a renewal that failed is not tried again.
	renewPause = 10 * time.Second
	// maxTokenBody bounds the answer of a token server.
	maxTokenBody = 1 << 20
)

// session is what one host believes of us for a repository and a right: the auth
// client with its token, when that should be renewed, and which credentials the host
// did not take. A token that has expired costs three round trips in the middle of a
// read, so the next one is fetched while the last one is still good.
type session struct {
	*auth.Client
	endpoint   *endpoint
	repository string

	mu       sync.Mutex
	renewAt  time.Time // zero: there is nothing to renew
	renewing bool

	shown   credentials.Credential   // what was given out last
	refused []credentials.Credential // at most MaxCandidates
	more    bool                     // there is a candidate after shown
	turn    int                      // changes with refused

	guess guess
}

// tokenWatch is between the auth client and the network. It notes the tokens that
// pass, says beforehand what the host would say, and sees to it that a token request
// tells no other host what only this one may know. Token requests, made by the auth
// client, are those without Accept.
type tokenWatch struct {
	http.RoundTripper
	session *session
	now     func() time.Time
}

// RoundTrip implements http.RoundTripper.
func (w tokenWatch) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Accept") == "" {
		return w.token(req)
	}
	if resp := w.session.foresee(req); resp != nil {
		return resp, nil
	}
	resp, err := w.RoundTripper.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		w.session.endpoint.learn(w.session.repository, resp)
	}
	return resp, err
}

// token makes a token request: to another host without the client certificate of this
// one and with its certificate checked, and never less private than this host is.
func (w tokenWatch) token(req *http.Request) (*http.Response, error) {
	e := w.session.endpoint
	rt := w.RoundTripper
	if !sameOrigin(req.URL, e.base) {
		rt = e.client(req.URL).Transport
	}
	if req.URL.User != nil {
		return nil, errors.New("the address of the token server holds a user name")
	}
	if req.URL.Scheme != "https" && (e.Scheme == "https" || hosts.IsLoopback(e.Addr) && !hosts.IsLoopback(req.URL.Host)) {
		return nil, fmt.Errorf("the token server %s is not reached by https", req.URL.Host)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenBody))
	_ = resp.Body.Close() // what was read counts
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	var token struct {
		ExpiresIn int64 `json:"expires_in"`
	}
	if json.Unmarshal(data, &token) == nil {
		w.session.tokenCame(w.now(), time.Duration(token.ExpiresIn)*time.Second)
	}
	return resp, nil
}

// tokenCame notes a new token.
func (s *session) tokenCame(now time.Time, life time.Duration) {
	if life <= 0 {
		life = defaultTokenLife
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewAt = now.Add(life - life/4)
}

// due reports that the token should be renewed now, by the caller, who says with
// renewed that it is over.
func (s *session) due(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.renewing || s.renewAt.IsZero() || now.Before(s.renewAt) {
		return false
	}
	s.renewing = true
	return true
}

// failed puts the next renewal off.
func (s *session) failed(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewing, s.renewAt = false, now.Add(renewPause)
}

// session gives the session for a repository and a right, and has its token
// renewed in the background when that is due. Tokens are not shared between
// repositories: the credentials behind them may differ.
func (e *endpoint) session(ctx context.Context, repository, actions string, scopes []string) *session {
	key := repository + "|" + actions
	e.mu.Lock()
	s := e.sessions[key]
	if s == nil {
		if len(e.sessionOrder) >= maxSessions {
			delete(e.sessions, e.sessionOrder[0])
			e.sessionOrder = slices.Delete(e.sessionOrder, 0, 1)
		}
		s = e.newSession(repository)
		e.sessions[key] = s
		e.sessionOrder = append(e.sessionOrder, key)
	}
	e.mu.Unlock()
	if s.due(e.registry.now()) {
		started := e.registry.goBackground(ctx, func(ctx context.Context) { e.renew(ctx, key, s, repository, scopes) })
		if !started {
			s.failed(e.registry.now())
		}
	}
	return s
}

func (e *endpoint) newSession(repository string) *session {
	s := &session{endpoint: e, repository: repository}
	own := *e.own
	own.Transport = tokenWatch{own.Transport, s, e.registry.now}
	s.Client = &auth.Client{
		Client: &own,
		Header: http.Header{"User-Agent": {e.registry.opts.UserAgent}},
		// Finds the token even where a proxy's challenges name another scope.
		Cache:                auth.NewSingleContextCache(),
		Credential:           s.credential,
		ClientID:             "nineply",
		BlockedRealmPrefixes: realmPrefixes(e.Addr),
	}
	return s
}

// renew makes a session with a new token and puts it in the place of the old one,
// which serves until then.
func (e *endpoint) renew(ctx context.Context, key string, old *session, repository string, scopes []string) {
	s := e.newSession(repository)
	s.refused = old.refusals()
	if err := e.ping(ctx, s, scopes); err != nil {
		e.registry.opts.Logger.Debug("token not renewed", zap.String("host", e.Addr), zap.String("repository", repository), zap.Error(err))
		old.failed(e.registry.now())
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sessions[key] == old {
		e.sessions[key] = s
	}
}

// ping asks for nothing, and gets a token for it.
func (e *endpoint) ping(ctx context.Context, s *session, scopes []string) error {
	ctx, cancel := context.WithTimeout(auth.WithScopes(ctx, scopes...), e.registry.opts.StallTimeout)
	defer cancel()
	u := *e.base
	u.Path += "/"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", acceptAny)
	for k, v := range e.Header {
		req.Header[k] = v
	}
	resp, err := s.Do(req)
	if err != nil {
		return err
	}
	discard(resp)
	if resp.StatusCode == http.StatusUnauthorized {
		return fmt.Errorf("the host answers %s", resp.Status)
	}
	return nil
}
