package registry

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/hosts"
)

var _ source.Referrers = (*Registry)(nil)

// maxReferrerPages bounds the requests for one list.
const maxReferrerPages = 64

// Referrers implements [source.Referrers]: by the API of the registry itself, if
// it has it, as its mirrors cannot know.
func (r *Registry) Referrers(ctx context.Context, ref string, subject digest.Digest) (list []ocispec.Descriptor, kept bool, err error) {
	parsed, err := source.ParseReference(ref)
	if err != nil {
		return nil, false, err
	}
	all, err := r.endpoints(parsed.Host)
	if err != nil {
		return nil, false, err
	}
	eps := capable(all, hosts.Pull|hosts.Resolve)
	err = r.run(ctx, task{
		op: "read", object: parsed.Name() + " referrers of " + subject.String(), endpoints: eps[max(0, len(eps)-1):],
		try: func(ctx context.Context, e *endpoint) error {
			var err error
			list, kept, err = referrers(ctx, e, parsed.Repository, subject)
			return err
		},
	})
	return list, kept, err
}

// referrers reads all pages of the list.
func referrers(ctx context.Context, e *endpoint, repository string, subject digest.Digest) (list []ocispec.Descriptor, kept bool, err error) {
	next := e.url(repository, "referrers", subject.String())
	for range maxReferrerPages {
		resp, err := e.exchange(ctx, request{
			method: http.MethodGet, url: next, header: http.Header{"Accept": {ocispec.MediaTypeImageIndex}},
			repository: repository, actions: actionsPull,
		})
		if err != nil {
			return nil, false, err
		}
		page, ok, err := referrersPage(resp)
		if err != nil || !ok {
			return nil, false, err
		}
		list = append(list, page...)
		if len(list) > source.MaxReferrers {
			return nil, false, fail(fserr.TooLarge, "more than %d referrers", source.MaxReferrers)
		}
		if next = nextPage(e, next, resp.Header); next == nil {
			return list, true, nil
		}
	}
	return nil, false, fail(fserr.TooLarge, "a list of referrers of more than %d pages", maxReferrerPages)
}

// referrersPage reads one page; ok is false when the registry has no such lists.
func referrersPage(resp *answer) (page []ocispec.Descriptor, ok bool, err error) {
	mediaType := source.BareType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode == http.StatusOK && mediaType == ocispec.MediaTypeImageIndex:
	case resp.StatusCode == http.StatusOK, resp.StatusCode == http.StatusNotFound,
		resp.StatusCode == http.StatusMethodNotAllowed, resp.StatusCode == http.StatusBadRequest:
		discard(resp.Response) // nothing that knows of referrers answers so
		return nil, false, nil
	default:
		return nil, false, answerFailure(resp.Response)
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(resp.Body, source.MaxManifestBytes+1))
	if err != nil {
		return nil, false, bodyFailure(err)
	}
	if len(data) > source.MaxManifestBytes {
		return nil, false, fail(fserr.TooLarge, "a list of referrers of more than %d bytes", source.MaxManifestBytes)
	}
	page, err = source.ParseReferrers(data)
	if err != nil {
		return nil, false, failAgain(fserr.KindOf(err), "%w", err)
	}
	return page, true, nil
}

// nextPage is where a list goes on, which is on the same host or nowhere.
func nextPage(e *endpoint, page *url.URL, h http.Header) *url.URL {
	for _, link := range h.Values("Link") {
		target, params, ok := strings.Cut(link, ">")
		target, isRef := strings.CutPrefix(strings.TrimSpace(target), "<")
		if !ok || !isRef || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
			continue
		}
		if u, err := page.Parse(target); err == nil && sameOrigin(u, e.base) {
			return u
		}
	}
	return nil
}
