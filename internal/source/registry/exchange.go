package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/nineply/nineply/internal/fserr"
)

// maxRedirects bounds where one request is sent on to.
const maxRedirects = 8

// acceptAny is for requests of blobs.
const acceptAny = "application/octet-stream, */*;q=0.5"

// Rights of a token.
const (
	actionsPull = "pull"
	actionsPush = "pull,push"
)

// request is one request to a host.
type request struct {
	method     string
	url        *url.URL
	header     http.Header // Accept must be set
	repository string
	actions    string
	// from is another repository that the token has to cover, for a mount.
	from string
	// body opens the content of length size; nil for none.
	body func() (io.ReadCloser, error)
	size int64
	// patience is how long the host may take to answer, if longer than usual.
	patience time.Duration
}

// answer is what came back. The body is watched, and closing it ends the
// request.
type answer struct {
	*http.Response
	// location is where the answer came from in the end, if not from the host
	// itself.
	location *url.URL
}

// exchange sends a request and follows redirects. Credentials and configured
// header fields go along until the host's own origin is left, and not again
// afterwards: whatever comes then was written by somebody else.
func (e *endpoint) exchange(ctx context.Context, rq request) (*answer, error) {
	return e.follow(ctx, rq, !sameOrigin(rq.url, e.base))
}

func (e *endpoint) follow(ctx context.Context, rq request, left bool) (*answer, error) {
	ctx, w := newWatch(ctx, max(rq.patience, e.registry.opts.StallTimeout))
	target := rq.url
	for hop := 0; ; hop++ {
		l := e.registry.links.of(target.Host)
		if err := w.enter(ctx, l); err != nil {
			w.stop()
			return nil, &failure{kind: fserr.KindOf(err), err: err}
		}
		resp, err := e.send(ctx, w, rq, target, left)
		l.leave()
		if err != nil {
			f := transportFailure(ctx, err)
			w.stop()
			return nil, f
		}
		next, err := redirection(resp, rq.method)
		if err == nil && next != nil && hop >= maxRedirects {
			err = fail(fserr.Unavailable, "more than %d redirects", maxRedirects)
		}
		if err != nil {
			discard(resp)
			w.stop()
			return nil, err
		}
		if next == nil {
			w.pause()
			resp.Body = newWatchedBody(resp.Body, w, l, e.registry.stats.Host(target.Host))
			a := &answer{Response: resp}
			if left {
				a.location = target
			}
			return a, nil
		}
		discard(resp)
		left = left || !sameOrigin(next, e.base)
		target = next
	}
}

// send makes one round trip.
func (e *endpoint) send(ctx context.Context, w *watch, rq request, target *url.URL, left bool) (*http.Response, error) {
	var scopes []string
	if !left {
		scopes = append(scopes, auth.ScopeRepository(rq.repository, strings.Split(rq.actions, ",")...))
		if rq.from != "" {
			scopes = append(scopes, auth.ScopeRepository(rq.from, actionsPull))
		}
		ctx = auth.WithScopes(ctx, scopes...)
	}
	req, err := http.NewRequestWithContext(ctx, rq.method, target.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	maps.Copy(req.Header, rq.header)
	counter := e.registry.stats.Host(target.Host)
	if rq.body != nil {
		req.ContentLength = rq.size
		req.GetBody = func() (io.ReadCloser, error) {
			rc, err := rq.body()
			if err != nil {
				return nil, fmt.Errorf("open content to send: %w", err)
			}
			return &sentBody{rc: rc, watch: w, counter: counter}, nil
		}
		if req.Body, err = req.GetBody(); err != nil {
			return nil, &failure{kind: fserr.KindOf(err), err: err}
		}
	}
	if left {
		req.Header.Set("User-Agent", e.registry.opts.UserAgent)
		return e.client(target).Do(req)
	}
	for k, v := range e.Header {
		req.Header[k] = v
	}
	return e.session(ctx, rq.repository, rq.actions+"|"+rq.from, scopes).ask(req)
}

// redirection is where an answer sends the request on to; nil if nowhere.
func redirection(resp *http.Response, method string) (*url.URL, error) {
	switch resp.StatusCode {
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther:
		if method != http.MethodGet && method != http.MethodHead {
			return nil, fail(fserr.Unavailable, "%d redirect of a %s request", resp.StatusCode, method)
		}
	default:
		return nil, nil
	}
	next, err := resp.Location()
	if err != nil {
		return nil, fail(fserr.Unavailable, "redirect without a usable location")
	}
	if (next.Scheme != "http" && next.Scheme != "https") || next.Host == "" {
		return nil, &failure{kind: fserr.Unavailable, err: errNotHTTP}
	}
	next.User = nil // credentials come from where they are configured, and from nowhere else
	return next, nil
}

// sameOrigin compares scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if strings.EqualFold(u.Scheme, "http") {
		return "80"
	}
	return "443"
}

// judged finds the failure that an error already became.
func judged(err error) (*failure, bool) {
	var f *failure
	ok := errors.As(err, &f)
	return f, ok
}
