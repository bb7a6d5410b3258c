package registry

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/nineply/nineply/internal/source/credentials"
)

// credential chooses what the auth client shows: the first that the host has not
// refused. It is asked whenever the host wants new proof, so that a credential which
// changed in the meantime counts.
func (s *session) credential(ctx context.Context, host string) (auth.Credential, error) {
	if host != s.endpoint.Addr {
		return auth.EmptyCredential, nil
	}
	list, err := s.endpoint.registry.opts.Credentials.Credentials(ctx, host, s.repository)
	if err != nil {
		return auth.EmptyCredential, err
	}
	return auth.Credential(s.choose(list)), nil
}

// notForBasic is what the auth client says of a credential that has no password, when
// the host wants one.
const notForBasic = "missing username or password for basic auth"

func (s *session) choose(list []credentials.Credential) credentials.Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	unused := func(c credentials.Credential) bool { return !slices.Contains(s.refused, c) }
	s.shown, s.more = credentials.Credential{}, false
	i := slices.IndexFunc(list, unused)
	if i < 0 && len(list) > 0 {
		// All were refused: they may have been given new rights.
		s.refused, i = nil, 0
	}
	if i >= 0 {
		s.shown, s.more = list[i], slices.ContainsFunc(list[i+1:], unused)
	}
	return s.shown
}

// ask sends a request, and again with the next credential while the host refuses one
// and there are others.
func (s *session) ask(req *http.Request) (*http.Response, error) {
	for tries := 0; ; tries++ {
		turn := s.current()
		resp, err := s.Do(req)
		if tries >= credentials.MaxCandidates || req.Context().Err() != nil || !s.another(turn, resp, err) {
			return resp, err
		}
		if err == nil {
			discard(resp)
		}
		if req.GetBody == nil {
			continue
		}
		if req.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
}

func (s *session) current() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turn
}

func (s *session) refusals() []credentials.Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.refused)
}

// another reports that a request with this outcome should be made again. turn is what
// current said before it.
func (s *session) another(turn int, resp *http.Response, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	no := denied(resp, err)
	if s.guess.outcome(no || err != nil) {
		s.endpoint.challenge.Store(nil)
		return true
	}
	switch {
	case !no:
		return false
	case turn != s.turn:
		return true // somebody else has gone on to the next already
	case !s.more || len(s.refused) >= credentials.MaxCandidates:
		return false
	}
	s.refused = append(s.refused, s.shown)
	s.turn++
	return true
}

// denied reports that the host, or its token server, did not take what it was shown.
func denied(resp *http.Response, err error) bool {
	var answer *errcode.ErrorResponse
	status := 0
	switch {
	case err == nil:
		status = resp.StatusCode
	case errors.As(err, &answer):
		status = answer.StatusCode
	case strings.Contains(err.Error(), notForBasic):
		return true
	}
	return status == http.StatusUnauthorized || status == http.StatusForbidden || err != nil && status == http.StatusBadRequest
}
