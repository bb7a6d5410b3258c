package testbed

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRecorder(t *testing.T) {
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/v2/demo/manifests/none" {
			http.NotFound(w, q)
			return
		}
		if q.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = io.WriteString(w, "0123456789")
	}))
	defer registry.Close()
	r, err := startRecorder(t.Context(), registry.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	}()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	get := func(path, ranges string) {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.Addr+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if ranges != "" {
			q.Header.Set("Range", ranges)
		}
		resp, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	get("/v2/", "")
	r.Reset()
	get("/v2/demo/manifests/v1", "")
	get("/v2/demo/blobs/sha256:1", "bytes=10-19")
	get("/v2/demo/blobs/sha256:1", "bytes=20-")
	get("/v2/demo/manifests/none", "")
	want := []Request{
		{Method: "GET", Path: "/v2/demo/manifests/v1", To: -1, Status: 200, Bytes: 10},
		{Method: "GET", Path: "/v2/demo/blobs/sha256:1", From: 10, To: 20, Status: 206, Bytes: 10},
		{Method: "GET", Path: "/v2/demo/blobs/sha256:1", From: 20, To: -1, Status: 206, Bytes: 10},
		{Method: "GET", Path: "/v2/demo/manifests/none", To: -1, Status: 404, Bytes: 19},
	}
	got := r.Requests()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Request{}, "Began", "Answered", "Ended")); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if r.Bytes() != 49 {
		t.Errorf("%d bytes", r.Bytes())
	}
	for _, q := range got {
		if q.Began.IsZero() || q.Answered.Before(q.Began) {
			t.Errorf("times of %+v", q)
		}
	}
}
