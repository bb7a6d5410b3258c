package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/credentials"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/source/sourcetest"
	"github.com/nineply/nineply/internal/testreg"
)

// pushing is a registry to push one blob to.
type pushing struct {
	*testreg.Registry
	pusher source.Pusher
	data   []byte
	desc   ocispec.Descriptor
	opened int
}

func newPushing(t *testing.T, opts registry.Options, regOpts ...testreg.Option) *pushing {
	t.Helper()
	data := sourcetest.Bytes(3, 200_000)
	p := &pushing{
		Registry: testreg.New(t, regOpts...), data: data,
		desc: ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))},
	}
	p.pusher = p.to(t, open(t, opts), "demo")
	return p
}

func (p *pushing) to(t *testing.T, r *registry.Registry, repo string) source.Pusher {
	t.Helper()
	pusher, err := r.Pusher(t.Context(), p.Ref(repo, "v1"))
	if err != nil {
		t.Fatal(err)
	}
	return pusher
}

func (p *pushing) open() (io.ReadCloser, error) {
	p.opened++
	return io.NopCloser(bytes.NewReader(p.data)), nil
}

func (p *pushing) wantThere(t *testing.T, repo string) {
	t.Helper()
	if got, ok := p.Blob(repo, p.desc.Digest); !ok || !bytes.Equal(got, p.data) {
		t.Errorf("the registry has %d bytes, %v", len(got), ok)
	}
}

func TestPushFaults(t *testing.T) {
	for _, tt := range []struct {
		name   string
		match  testreg.Match
		faults []testreg.Fault
	}{
		{"HEAD fails", testreg.Match{Method: "HEAD"}, testreg.Times(2, testreg.Status(503))},
		{"POST fails", testreg.Match{Method: "POST"}, []testreg.Fault{testreg.Status(500), testreg.TooMany(time.Second), testreg.Reset(-1)}},
		{"upload fails", testreg.Match{Path: "/blobs/uploads/upload"}, testreg.Times(2, testreg.Status(502))},
		{"upload breaks", testreg.Match{Path: "/blobs/uploads/upload"}, testreg.Times(2, testreg.Reset(-1))},
		{"upload breaks after it", testreg.Match{Path: "/blobs/uploads/upload"}, []testreg.Fault{func(x testreg.Exchange) {
			_, _ = io.Copy(io.Discard, x.R.Body)
			testreg.Reset(-1)(x)
		}}},
		{"PUT fails", testreg.Match{Method: "PUT"}, testreg.Times(2, testreg.Status(503))},
	} {
		for _, chunk := range []int64{0, 64 << 10} {
			t.Run(fmt.Sprintf("%s/chunk=%d", tt.name, chunk), func(t *testing.T) {
				p := newPushing(t, registry.Options{ChunkSize: chunk})
				p.On(tt.match, tt.faults...)
				if err := p.pusher.PushBlob(bounded(t), p.desc, p.open); err != nil {
					t.Fatal(err)
				}
				p.wantThere(t, "demo")
				if p.opened < 1 || p.opened > 3 {
					t.Errorf("the content was opened %d times", p.opened)
				}
			})
		}
	}
}

func TestPushRefused(t *testing.T) {
	for _, tt := range []struct {
		name  string
		match testreg.Match
		fault testreg.Fault
		kind  fserr.Kind
	}{
		{"403 on POST", testreg.Match{Method: "POST"}, testreg.Status(403), fserr.Unauthorized},
		{"413 on PUT", testreg.Match{Method: "PUT"}, testreg.Status(413), fserr.Invalid},
		{"no location", testreg.Match{Method: "POST"}, func(x testreg.Exchange) { x.W.WriteHeader(202) }, fserr.Unavailable},
		{"location of another kind", testreg.Match{Method: "POST"}, testreg.Status(202, "Location", "ftp://h/x"), fserr.Unavailable},
		{"POST says it is there", testreg.Match{Method: "POST"}, testreg.Status(201), fserr.Unavailable},
		{"redirect that loses the content", testreg.Match{Method: "PUT"}, testreg.Status(302, "Location", "/x"), fserr.Unavailable},
		{"always 500", testreg.Match{Method: "PUT"}, testreg.Status(500), fserr.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPushing(t, registry.Options{})
			p.Always(tt.match, tt.fault)
			err := p.pusher.PushBlob(bounded(t), p.desc, p.open)
			wantKind(t, err, tt.kind)
			if !strings.Contains(err.Error(), p.desc.Digest.String()) || !strings.Contains(err.Error(), p.Host()+"/demo") {
				t.Errorf("the error does not say what was pushed where: %v", err)
			}
		})
	}
	t.Run("no host takes pushes", func(t *testing.T) {
		p := newPushing(t, registry.Options{})
		opts := configure(t, registry.Options{}, p.Host(), `capabilities = ["pull"]`+"\nserver = \""+p.URL()+"\"")
		pusher := p.to(t, open(t, opts), "demo")
		wantKind(t, pusher.PushBlob(bounded(t), p.desc, p.open), fserr.Unsupported)
	})
}

func TestPushContentThatFails(t *testing.T) {
	for _, chunk := range []int64{0, 64 << 10} {
		p := newPushing(t, registry.Options{ChunkSize: chunk})
		broken := errors.New("the disk is broken")
		opened := 0
		err := p.pusher.PushBlob(bounded(t), p.desc, func() (io.ReadCloser, error) {
			opened++
			return io.NopCloser(io.MultiReader(bytes.NewReader(p.data[:100_000]), failing{broken})), nil
		})
		if !errors.Is(err, broken) || opened != 1 {
			t.Errorf("chunk=%d: %v, opened %d times", chunk, err, opened)
		}
	}
}

type failing struct{ err error }

// Read implements io.Reader.
func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestPushWithTokens(t *testing.T) {
	for _, chunk := range []int64{0, 64 << 10} {
		var who asked
		p := newPushing(t, registry.Options{Credentials: credentials.Func(who.get), ChunkSize: chunk}, testreg.WithBearer("joe", "pw"))
		who.set(p.Host(), credentials.Credential{Username: "joe", Password: "pw"})
		// The token expires between the start of the upload and its content.
		p.On(testreg.Match{Path: "/blobs/uploads/upload"}, func(x testreg.Exchange) {
			p.ExpireTokens()
			x.Serve(x.W, x.R)
		})
		if err := p.pusher.PushBlob(bounded(t), p.desc, p.open); err != nil {
			t.Fatalf("chunk=%d: %v", chunk, err)
		}
		p.wantThere(t, "demo")
		if n := p.Count(testreg.Match{Path: "/token"}).Requests; n != 2 {
			t.Errorf("chunk=%d: %d tokens, want 2", chunk, n)
		}
	}
}

func TestMount(t *testing.T) {
	var who asked
	p := newPushing(t, registry.Options{}, testreg.WithBearer("joe", "pw"))
	who.set(p.Host(), credentials.Credential{Username: "joe", Password: "pw"})
	p.AddBlobTo("base", p.data)
	r := open(t, registry.Options{Credentials: credentials.Func(who.get), MountFrom: []string{
		"elsewhere.example/base", "not a reference!", p.Ref("target", "v1"), p.Ref("none", "v1"), p.Ref("base", "v1"),
	}})
	if err := p.to(t, r, "target").PushBlob(bounded(t), p.desc, p.open); err != nil {
		t.Fatal(err)
	}
	p.wantThere(t, "target")
	if p.opened != 0 || p.Count(testreg.Match{Method: "PUT"}).Requests != 0 {
		t.Error("the blob was uploaded though it could be linked")
	}
	p.RemoveBlob(p.desc.Digest)
	p.On(testreg.Match{Method: "POST"}, testreg.Status(403))
	if err := p.to(t, r, "target").PushBlob(bounded(t), p.desc, p.open); err != nil {
		t.Fatal(err)
	}
	p.wantThere(t, "target")
}

// TestUploadElsewhere has the registry name another host to upload to.
func TestUploadElsewhere(t *testing.T) {
	for _, tt := range []struct {
		name  string
		match testreg.Match
		send  func(to string) testreg.Fault
	}{
		{"location", testreg.Match{Method: "POST"}, func(to string) testreg.Fault {
			return testreg.Status(202, "Location", to+"/v2/demo/blobs/uploads/signed?signature=1")
		}},
		{"redirect", testreg.Match{Method: "PUT"}, func(to string) testreg.Fault {
			return testreg.Redirect(to + "/v2/demo/blobs/uploads/signed?signature=1")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var who asked
			p := newPushing(t, registry.Options{Credentials: credentials.Func(who.get)}, testreg.WithBasic("joe", "pw"))
			who.set(p.Host(), credentials.Credential{Username: "joe", Password: "pw"})
			other := testreg.New(t)
			var got []byte
			other.Always(testreg.Match{}, func(x testreg.Exchange) {
				got, _ = io.ReadAll(x.R.Body)
				x.W.WriteHeader(http.StatusCreated)
			})
			p.Always(tt.match, tt.send(other.URL()))
			if err := p.pusher.PushBlob(bounded(t), p.desc, p.open); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, p.data) {
				t.Errorf("the other host got %d bytes", len(got))
			}
			for _, q := range other.Requests(testreg.Match{}) {
				if q.Header.Get("Authorization") != "" || !strings.Contains(q.Query, "signature=1") {
					t.Errorf("the other host was shown %v, %s", q.Header, q.Query)
				}
			}
		})
	}
}

// TestUploadLocationKeepsTLS is about registries behind a proxy that ends TLS
// and that name themselves by http.
func TestUploadLocationKeepsTLS(t *testing.T) {
	f := secureFixture(t, registry.Options{}, true)
	f.Always(testreg.Match{Method: "POST"}, func(x testreg.Exchange) {
		x.Serve(plainLocation{x.W, f.Host()}, x.R)
	})
	p, err := f.client.Pusher(t.Context(), f.Ref("demo", "v1"))
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("content")
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	err = p.PushBlob(bounded(t), desc, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := f.Blob("demo", desc.Digest); !ok {
		t.Error("the blob is not there")
	}
}

// plainLocation makes a relative Location an absolute one by http.
type plainLocation struct {
	http.ResponseWriter
	host string
}

// WriteHeader implements http.ResponseWriter.
func (w plainLocation) WriteHeader(status int) {
	if l := w.Header().Get("Location"); l != "" {
		w.Header().Set("Location", "http://"+w.host+l)
	}
	w.ResponseWriter.WriteHeader(status)
}

func TestPushManifestTakenForAnother(t *testing.T) {
	p := newPushing(t, registry.Options{})
	p.Always(testreg.Match{Method: "PUT"}, testreg.Status(201, "Docker-Content-Digest", digest.FromString("other").String()))
	_, err := p.pusher.PushManifest(bounded(t), "v1", ocispec.MediaTypeImageManifest, []byte("{}"))
	wantKind(t, err, fserr.Corrupt)
}

func TestPushManifestAgain(t *testing.T) {
	p := newPushing(t, registry.Options{})
	p.On(testreg.Match{Method: "PUT"}, testreg.Status(503), testreg.Reset(-1))
	if _, err := p.pusher.PushManifest(bounded(t), "v1", ocispec.MediaTypeImageManifest, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, data, ok := p.Manifest("demo", "v1"); !ok || string(data) != "{}" {
		t.Errorf("the registry has %q, %v", data, ok)
	}
}
