package registry

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/hosts"
)

const (
	// commitPatience is how much longer than usual a registry may take to
	// answer an upload: some of them move the bytes before they do.
	commitPatience = 10
	// maxMounts bounds the repositories asked to link a blob from.
	maxMounts = 4
)

// pusher writes to one repository.
type pusher struct {
	registry *Registry
	ref      source.Reference
	// mounts are references to look for blobs at first. It is set before the
	// first push.
	mounts []string
}

var (
	_ source.Mounter  = (*pusher)(nil)
	_ source.Untagger = (*pusher)(nil)
)

// MountFrom implements [source.Mounter].
func (p *pusher) MountFrom(ref string) { p.mounts = append(p.mounts, ref) }

// Pusher implements [source.PushTarget]. Pushes go to the first host with the
// right to take them, and to no other.
func (r *Registry) Pusher(_ context.Context, ref string) (source.Pusher, error) {
	parsed, err := source.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	return &pusher{registry: r, ref: parsed}, nil
}

// run does something with the host that takes pushes.
func (p *pusher) run(ctx context.Context, op, object string, try func(context.Context, *endpoint) error) error {
	all, err := p.registry.endpoints(p.ref.Host)
	if err != nil {
		return err
	}
	eps := capable(all, hosts.Push)
	return p.registry.run(ctx, task{op: op, object: object, endpoints: eps[:min(1, len(eps))], try: try})
}

// PushBlob implements [source.Pusher].
func (p *pusher) PushBlob(ctx context.Context, desc ocispec.Descriptor, open func() (io.ReadCloser, error)) error {
	if err := source.CheckDigest(desc.Digest); err != nil {
		return err
	}
	object := p.ref.Name() + " blob " + desc.Digest.String()
	if desc.Size < 0 {
		return fserr.Newf(fserr.Invalid, "push", object, "negative size")
	}
	return p.run(ctx, "push", object, func(ctx context.Context, e *endpoint) error {
		if there, err := p.exists(ctx, e, desc.Digest); err != nil || there {
			return err
		}
		location, err := p.start(ctx, e, desc.Digest)
		if err != nil || location == nil {
			return err
		}
		up := &upload{pusher: p, endpoint: e, desc: desc, location: location, open: open}
		if chunk := p.registry.opts.ChunkSize; chunk > 0 && desc.Size > chunk {
			return up.chunks(ctx, chunk)
		}
		return up.whole(ctx)
	})
}

func (p *pusher) request(method string, u *url.URL) request {
	return request{
		method: method, url: u, header: http.Header{"Accept": {"*/*"}},
		repository: p.ref.Repository, actions: actionsPush,
		patience: commitPatience * p.registry.opts.StallTimeout,
	}
}

func (p *pusher) exists(ctx context.Context, e *endpoint, d digest.Digest) (bool, error) {
	resp, err := e.exchange(ctx, p.request(http.MethodHead, e.url(p.ref.Repository, "blobs", d.String())))
	if err != nil {
		return false, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		discard(resp.Response)
		return true, nil
	case http.StatusNotFound:
		discard(resp.Response)
		return false, nil
	}
	return false, answerFailure(resp.Response)
}

// start opens an upload and gives its location; nil when the registry could
// link the blob from another repository instead.
func (p *pusher) start(ctx context.Context, e *endpoint, d digest.Digest) (*url.URL, error) {
	for _, from := range p.mountable() {
		location, err := p.post(ctx, e, from, d)
		if err == nil && location == nil {
			return nil, nil
		}
		if err != nil && asFailure(err).kind != fserr.Unauthorized {
			return nil, err
		}
		// Not there, or not for us: the next one, and an upload in the end.
	}
	location, err := p.post(ctx, e, "", d)
	if err == nil && location == nil {
		err = fail(fserr.Unavailable, "no upload was opened")
	}
	return location, err
}

// mountable are the other repositories of the same registry to link from.
func (p *pusher) mountable() []string {
	var out []string
	for _, s := range slices.Concat(p.mounts, p.registry.opts.MountFrom) {
		ref, err := source.ParseReference(s)
		if err == nil && ref.Host == p.ref.Host && ref.Repository != p.ref.Repository && len(out) < maxMounts && !slices.Contains(out, ref.Repository) {
			out = append(out, ref.Repository)
		}
	}
	return out
}

func (p *pusher) post(ctx context.Context, e *endpoint, from string, d digest.Digest) (*url.URL, error) {
	u := e.url(p.ref.Repository, "blobs", "uploads/")
	if from != "" {
		q := u.Query()
		q.Set("mount", d.String())
		q.Set("from", from)
		u.RawQuery = q.Encode()
	}
	rq := p.request(http.MethodPost, u)
	rq.from = from
	resp, err := e.exchange(ctx, rq)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusCreated:
		discard(resp.Response)
		return nil, nil
	case http.StatusAccepted:
		discard(resp.Response)
		return uploadLocation(e, resp)
	}
	return nil, answerFailure(resp.Response)
}

// uploadLocation is where to go on with an upload. A registry behind a proxy
// that ends TLS may name itself by http; that must not lose the encryption.
func uploadLocation(e *endpoint, resp *answer) (*url.URL, error) {
	u, err := resp.Location()
	if err != nil {
		return nil, fail(fserr.Unavailable, "upload without a usable location")
	}
	if e.base.Scheme == "https" && u.Scheme == "http" && u.Host == e.base.Host {
		u.Scheme = "https"
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, &failure{kind: fserr.Unavailable, err: errNotHTTP}
	}
	return u, nil
}

// upload is one blob on its way.
type upload struct {
	pusher   *pusher
	endpoint *endpoint
	desc     ocispec.Descriptor
	location *url.URL
	open     func() (io.ReadCloser, error)
}

// content opens the blob. What does not agree with the descriptor ends in an
// error before the registry has seen all of it.
func (u *upload) content() (io.ReadCloser, error) {
	rc, err := u.open()
	if err != nil {
		return nil, err
	}
	v := source.Verified(rc, u.desc.Digest, u.desc.Size)
	return &contentReader{ahead: bufio.NewReaderSize(v, 64<<10), Closer: v}, nil
}

// contentReader gives out the last bytes only after the end was seen, where the
// content is judged. An error of the content must not be taken for one of the
// network either, which would be tried again.
type contentReader struct {
	ahead *bufio.Reader
	io.Closer
}

// Read implements io.Reader.
func (r *contentReader) Read(p []byte) (int, error) {
	n, err := r.ahead.Read(p)
	if n > 0 {
		_, err = r.ahead.Peek(1)
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, &failure{kind: fserr.KindOf(err), err: fmt.Errorf("content to send: %w", err)}
	}
	return n, err
}

// whole sends the blob in one request.
func (u *upload) whole(ctx context.Context) error {
	rq := u.finishing()
	if u.desc.Size > 0 {
		rq.body, rq.size = u.content, u.desc.Size
	}
	return u.finish(ctx, rq)
}

// finishing is the request that ends an upload.
func (u *upload) finishing() request {
	to := *u.location
	if to.RawQuery != "" {
		to.RawQuery += "&" // as it is: it may be signed
	}
	to.RawQuery += "digest=" + url.QueryEscape(u.desc.Digest.String())
	rq := u.pusher.request(http.MethodPut, &to)
	rq.header.Set("Content-Type", "application/octet-stream")
	return rq
}

func (u *upload) finish(ctx context.Context, rq request) error {
	resp, err := u.endpoint.exchange(ctx, rq)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusNoContent {
		return answerFailure(resp.Response)
	}
	discard(resp.Response)
	return nil
}

// chunks sends the blob in requests of at most size bytes, each of which is held
// in memory: the transport may read a body a little longer than the request
// lasts, so that chunks cannot share a buffer or a reader.
func (u *upload) chunks(ctx context.Context, size int64) error {
	rc, err := u.content()
	if err != nil {
		return &failure{kind: fserr.KindOf(err), err: fmt.Errorf("content to send: %w", err)}
	}
	defer func() { _ = rc.Close() }() // only read from
	for off := int64(0); off < u.desc.Size; off += size {
		chunk := make([]byte, min(size, u.desc.Size-off))
		if _, err := io.ReadFull(rc, chunk); err != nil {
			return contentFailure(err)
		}
		if err := u.chunk(ctx, off, chunk); err != nil {
			return err
		}
	}
	if _, err := io.CopyN(io.Discard, rc, 1); !errors.Is(err, io.EOF) {
		return contentFailure(err) // what the content's own check says
	}
	return u.finish(ctx, u.finishing())
}

func contentFailure(err error) error {
	if f, ok := judged(err); ok {
		return f
	}
	return fail(fserr.Corrupt, "content to send: %w", errOr(err, io.ErrUnexpectedEOF))
}

func (u *upload) chunk(ctx context.Context, off int64, chunk []byte) error {
	rq := u.pusher.request(http.MethodPatch, u.location)
	rq.header.Set("Content-Type", "application/octet-stream")
	rq.header.Set("Content-Range", fmt.Sprintf("%d-%d", off, off+int64(len(chunk))-1))
	rq.body, rq.size = bytesBody(chunk), int64(len(chunk))
	resp, err := u.endpoint.exchange(ctx, rq)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusNoContent {
		return answerFailure(resp.Response)
	}
	discard(resp.Response)
	u.location, err = uploadLocation(u.endpoint, resp)
	return err
}

func bytesBody(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// PushManifest implements [source.Pusher].
func (p *pusher) PushManifest(ctx context.Context, target, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if len(data) > source.MaxManifestBytes {
		return desc, fserr.Newf(fserr.TooLarge, "push", p.ref.Name()+" manifest", "%d bytes, at most %d are allowed", len(data), source.MaxManifestBytes)
	}
	target, err := source.PushTargetName(p.ref, target, desc.Digest)
	if err != nil {
		return desc, err
	}
	return desc, p.run(ctx, "push", p.ref.Name()+" manifest "+target, func(ctx context.Context, e *endpoint) error {
		rq := p.request(http.MethodPut, e.url(p.ref.Repository, "manifests", target))
		rq.header.Set("Content-Type", mediaType)
		rq.body, rq.size = bytesBody(data), int64(len(data))
		resp, err := e.exchange(ctx, rq)
		if err != nil {
			return err
		}
		if resp.StatusCode/100 != 2 {
			return answerFailure(resp.Response)
		}
		discard(resp.Response)
		if got := announced(resp.Header); got != "" && got.Algorithm() == desc.Digest.Algorithm() && got != desc.Digest {
			return fail(fserr.Corrupt, "the registry took the manifest as %s", got)
		}
		return nil
	})
}

// Untag implements [source.Untagger]. Not every registry lets a tag be deleted:
// that is an error of kind Unsupported.
func (p *pusher) Untag(ctx context.Context, target string) error {
	parsed, err := source.ParseReference(target)
	if err != nil || parsed.Name() != p.ref.Name() || parsed.Tag == "" {
		return fserr.Newf(fserr.Invalid, "delete", target, "not a tag of %s", p.ref.Name())
	}
	return p.run(ctx, "delete", p.ref.Name()+" tag "+parsed.Tag, func(ctx context.Context, e *endpoint) error {
		rq := p.request(http.MethodDelete, e.url(p.ref.Repository, "manifests", parsed.Tag))
		rq.actions = actionsPush + ",delete"
		resp, err := e.exchange(ctx, rq)
		if err != nil {
			return err
		}
		switch {
		case resp.StatusCode/100 == 2, resp.StatusCode == http.StatusNotFound:
			discard(resp.Response)
			return nil
		case resp.StatusCode == http.StatusMethodNotAllowed, resp.StatusCode == http.StatusBadRequest:
			discard(resp.Response)
			return fail(fserr.Unsupported, "the registry does not delete tags")
		}
		return answerFailure(resp.Response)
	})
}
