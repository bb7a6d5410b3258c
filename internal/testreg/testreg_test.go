package testreg_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/nineply/nineply/internal/testreg"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client sends single requests.
type client struct {
	t *testing.T
	*testreg.Registry
	http *http.Client
}

func newClient(t *testing.T, opts ...testreg.Option) *client {
	c := &client{t: t, Registry: testreg.New(t, opts...)}
	// On a connection that was used before, the transport would send a request
	// again by itself when it breaks.
	c.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return c
}

// reply is an answer with its body; err is what reading it gave.
type reply struct {
	status int
	header http.Header
	body   []byte
	err    error
}

func (c *client) do(method, path string, body []byte, header ...string) reply {
	c.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = c.URL() + path
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, path, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{err: err}
	}
	data, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	return reply{resp.StatusCode, resp.Header, data, err}
}

func (c *client) want(status int, r reply) reply {
	c.t.Helper()
	if r.err != nil || r.status != status {
		c.t.Fatalf("status %d %s, %v, want %d", r.status, r.body, r.err, status)
	}
	return r
}

func TestImage(t *testing.T) {
	for _, docker := range []bool{false, true} {
		c := newClient(t)
		img := c.AddImage("a/b", "v1", testreg.Image{Layers: []testreg.Layer{{Data: []byte("one")}, {Data: []byte("two"), DiffID: digest.FromString("plain")}}, Docker: docker})
		index := c.AddIndex("a/b", "multi", img.Descriptor)
		r := c.want(200, c.do("GET", "/v2/a/b/manifests/v1", nil))
		if digest.FromBytes(r.body) != img.Descriptor.Digest || r.header.Get("Content-Type") != img.Descriptor.MediaType {
			t.Errorf("docker=%v: %v", docker, r.header)
		}
		c.want(200, c.do("HEAD", "/v2/a/b/manifests/"+img.Descriptor.Digest.String(), nil))
		r = c.want(200, c.do("GET", "/v2/a/b/manifests/multi", nil))
		if digest.FromBytes(r.body) != index.Digest {
			t.Error("another index")
		}
		r = c.want(206, c.do("GET", "/v2/a/b/blobs/"+img.Layers[1].Digest.String(), nil, "Range", "bytes=1-2"))
		if string(r.body) != "wo" || r.header.Get("Content-Range") != "bytes 1-2/3" {
			t.Errorf("range: %q, %v", r.body, r.header)
		}
		var config ocispec.Image
		if err := json.Unmarshal(img.ConfigBytes, &config); err != nil || config.RootFS.DiffIDs[1] != digest.FromString("plain") {
			t.Errorf("config %+v, %v", config, err)
		}
		c.want(404, c.do("GET", "/v2/a/b/manifests/other", nil))
		c.want(404, c.do("GET", "/v2/a/b/blobs/"+digest.FromString("x").String(), nil))
		if got := c.Count(testreg.Match{Digest: img.Layers[1].Digest}); got != (testreg.Traffic{Requests: 1, Bytes: 2}) {
			t.Errorf("counted %+v", got)
		}
		c.ResetCounts()
		if got := c.Count(testreg.Match{}); got.Requests != 0 {
			t.Errorf("counted %+v after the reset", got)
		}
	}
}

func TestFaults(t *testing.T) {
	data := []byte("0123456789")
	for _, tt := range []struct {
		name   string
		fault  testreg.Fault
		status int
		body   string
		ranges string
		broken bool
	}{
		{"pass", testreg.Pass(), 206, "2345", "bytes 2-5/10", false},
		{"ignore range", testreg.IgnoreRange(), 200, "0123456789", "", false},
		{"short body", testreg.ShortBody(2), 206, "23", "bytes 2-5/10", false},
		{"short range", testreg.ShortRange(2), 206, "23", "bytes 2-3/10", false},
		{"long body", testreg.LongBody(2), 206, "2345++", "bytes 2-5/10", false},
		{"long body without length", testreg.LongChunked(2), 206, "2345++", "bytes 2-5/10", false},
		{"shift", testreg.Shift(1), 206, "3456", "bytes 3-6/10", false},
		{"Content-Range", testreg.ContentRange("x"), 206, "2345", "x", false},
		{"wrong bytes", testreg.WrongBytes(), 206, "\xcd345", "bytes 2-5/10", false},
		{"reset in the body", testreg.Reset(2), 206, "23", "bytes 2-5/10", true},
		{"reset at once", testreg.Reset(-1), 0, "", "", true},
		{"too many", testreg.TooMany(3e9), 429, `{"errors":[{"code":"UNKNOWN","message":"scripted answer"}]}`, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t)
			desc := c.AddBlob(data)
			path := "/v2/x/blobs/" + desc.Digest.String()
			// The fault is for the second matching GET only.
			c.On(testreg.Match{Method: "GET", Digest: desc.Digest}, testreg.Pass(), tt.fault)
			c.want(200, c.do("HEAD", path, nil))
			c.want(206, c.do("GET", path, nil, "Range", "bytes=2-5"))
			r := c.do("GET", path, nil, "Range", "bytes=2-5")
			if r.status != tt.status || string(r.body) != tt.body || r.header.Get("Content-Range") != tt.ranges || (r.err != nil) != tt.broken {
				t.Errorf("%d %q %q, %v", r.status, r.body, r.header.Get("Content-Range"), r.err)
			}
			c.want(206, c.do("GET", path, nil, "Range", "bytes=2-5"))
		})
	}
}

func TestStallEndsWithTheRegistry(t *testing.T) {
	for _, n := range []int{-1, 3} {
		c := newClient(t)
		desc := c.AddBlob([]byte("0123456789"))
		reached := make(chan struct{})
		stall := testreg.Stall(n)
		c.On(testreg.Match{Digest: desc.Digest}, func(x testreg.Exchange) {
			close(reached)
			stall(x)
		})
		done := make(chan reply, 1)
		go func() { done <- c.do("GET", "/v2/x/blobs/"+desc.Digest.String(), nil) }()
		<-reached
		c.Close()
		if r := <-done; r.err == nil {
			t.Errorf("stall after %d: %d %q", n, r.status, r.body)
		}
		c.Close() // a second time does nothing
	}
}

func TestRedirects(t *testing.T) {
	c := newClient(t, testreg.WithRedirects())
	desc := c.AddBlob([]byte("data"))
	path := "/v2/x/blobs/" + desc.Digest.String()
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	to := c.want(307, c.do("GET", path, nil)).header.Get("Location")
	if !strings.Contains(to, c.StorageHost()) {
		t.Errorf("sent to %s", to)
	}
	if r := c.want(200, c.do("GET", to, nil)); string(r.body) != "data" {
		t.Errorf("storage has %q", r.body)
	}
	c.want(400, c.do("GET", to, nil, "Authorization", "Basic x"))
	c.ExpireRedirects()
	c.want(403, c.do("GET", to, nil))
	c.RemoveBlob(desc.Digest)
	c.want(404, c.do("GET", path, nil))
	if got := c.Count(testreg.Match{Storage: true}).Requests; got != 3 {
		t.Errorf("%d requests to storage", got)
	}
}

func TestTokens(t *testing.T) {
	c := newClient(t, testreg.WithBearer("joe", "pw"))
	desc := c.AddBlob([]byte("data"))
	path := "/v2/x/blobs/" + desc.Digest.String()
	challenge := c.want(401, c.do("GET", path, nil)).header.Get("WWW-Authenticate")
	if challenge != fmt.Sprintf(`Bearer realm="%s/token",service="testreg",scope="repository:x:pull"`, c.URL()) {
		t.Errorf("challenge %s", challenge)
	}
	c.want(401, c.do("GET", "/token?scope=repository:x:pull", nil))
	login := "Basic am9lOnB3" // joe:pw
	var tok struct{ Token string }
	if err := json.Unmarshal(c.want(200, c.do("GET", "/token?scope=repository:x:pull", nil, "Authorization", login)).body, &tok); err != nil {
		t.Fatal(err)
	}
	bearer := "Bearer " + tok.Token
	c.want(200, c.do("GET", path, nil, "Authorization", bearer))
	c.want(401, c.do("GET", strings.Replace(path, "/x/", "/y/", 1), nil, "Authorization", bearer))
	c.want(401, c.do("POST", "/v2/x/blobs/uploads/", nil, "Authorization", bearer))
	c.ExpireTokens()
	c.want(401, c.do("GET", path, nil, "Authorization", bearer))
}

func TestUploads(t *testing.T) {
	c := newClient(t)
	data := []byte("0123456789")
	d := digest.FromBytes(data)
	start := func() string {
		t.Helper()
		return c.want(202, c.do("POST", "/v2/x/blobs/uploads/", nil)).header.Get("Location")
	}
	at := start()
	at = c.want(202, c.do("PATCH", at, data[:4], "Content-Range", "0-3")).header.Get("Location")
	c.want(416, c.do("PATCH", at, data[:4], "Content-Range", "0-3"))
	c.want(201, c.do("PUT", at+"&digest="+d.String(), data[4:]))
	c.want(404, c.do("PUT", at+"&digest="+d.String(), nil))
	if got, ok := c.Blob("x", d); !ok || !bytes.Equal(got, data) {
		t.Errorf("stored %q, %v", got, ok)
	}
	if _, ok := c.Blob("y", d); ok {
		t.Error("the blob is in a repository it was not pushed to")
	}
	c.want(201, c.do("POST", "/v2/y/blobs/uploads/?mount="+d.String()+"&from=x", nil))
	c.want(202, c.do("POST", "/v2/z/blobs/uploads/?mount="+d.String()+"&from=none", nil))
	c.want(400, c.do("PUT", start()+"&digest="+d.String(), data[1:]))
	gone := start()
	c.want(204, c.do("DELETE", gone, nil))
	c.want(404, c.do("PATCH", gone, data))
	c.want(405, c.do("GET", start(), nil))
}

func TestPushedManifests(t *testing.T) {
	c := newClient(t)
	config := c.AddBlobTo("x", []byte("{}"))
	config.MediaType = ocispec.MediaTypeImageConfig
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{}}
	encode := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	data := encode(m)
	d := digest.FromBytes(data)
	c.want(201, c.do("PUT", "/v2/x/manifests/v1", data, "Content-Type", m.MediaType))
	c.want(400, c.do("PUT", "/v2/y/manifests/v1", data, "Content-Type", m.MediaType)) // lacks the config
	c.want(400, c.do("PUT", "/v2/x/manifests/"+digest.FromString("x").String(), data))
	c.want(400, c.do("PUT", "/v2/x/manifests/v1", []byte("no JSON")))
	desc, _, ok := c.Manifest("x", "v1")
	if !ok || desc.Digest != d {
		t.Errorf("stored %v, %v", desc, ok)
	}
	m.Subject, m.ArtifactType = &desc, "application/x"
	ref := encode(m)
	c.want(201, c.do("PUT", "/v2/x/manifests/"+digest.FromBytes(ref).String(), ref, "Content-Type", m.MediaType))
	var index ocispec.Index
	if err := json.Unmarshal(c.want(200, c.do("GET", "/v2/x/referrers/"+d.String(), nil)).body, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 1 || index.Manifests[0].Digest != digest.FromBytes(ref) || index.Manifests[0].ArtifactType != "application/x" {
		t.Errorf("referrers %+v", index.Manifests)
	}
	c.want(400, c.do("PUT", "/v2/x/manifests/multi", encode(ocispec.Index{Manifests: []ocispec.Descriptor{{Digest: digest.FromString("x")}}})))
}
