package control_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a service that notes its calls and answers err.
type recorder struct {
	calls []any
	err   error
}

func (r *recorder) AddLayer(_ context.Context, l control.Layer) (control.LayerStatus, error) {
	r.calls = append(r.calls, l)
	return control.LayerStatus{Digest: l.Digest, Lazy: true, Size: 7}, r.err
}
func (r *recorder) RemoveChain(_ context.Context, id string) error {
	r.calls = append(r.calls, id)
	return r.err
}
func (r *recorder) Mount(_ context.Context, m control.MountRequest) error {
	r.calls = append(r.calls, m)
	return r.err
}
func (r *recorder) Unmount(_ context.Context, target string) error {
	r.calls = append(r.calls, target)
	return r.err
}
func (r *recorder) Status(context.Context) (control.Status, error) {
	return control.Status{Version: "v", PID: 3}, r.err
}

func (r *recorder) PushIndex(_ context.Context, ref string) (control.PublishedIndex, error) {
	r.calls = append(r.calls, "push "+ref)
	return control.PublishedIndex{Ref: ref, Digest: "sha256:i", Layers: []control.PublishedIndexLayer{{Digest: "sha256:d", Size: 5}}}, r.err
}
func (r *recorder) PullIndex(_ context.Context, in control.IndexRequest) (control.PublishedIndex, error) {
	r.calls = append(r.calls, in)
	return control.PublishedIndex{Ref: in.Ref, Digest: in.Digest}, r.err
}
func (r *recorder) Indexes(_ context.Context, name string) ([]control.Index, error) {
	r.calls = append(r.calls, "ls "+name)
	return []control.Index{{Layer: "sha256:d", Format: "gzip+index", Size: 9}}, r.err
}
func (r *recorder) RemoveIndexes(_ context.Context, name string) (control.RemovedIndexes, error) {
	r.calls = append(r.calls, "rm "+name)
	return control.RemovedIndexes{Removed: 2}, r.err
}

func TestIndexCallsArrive(t *testing.T) {
	r := &recorder{}
	c := serve(t, r)
	ctx := t.Context()
	pushed, err := c.PushIndex(ctx, "a/b:c&d")
	if err != nil || pushed.Digest != "sha256:i" || pushed.Layers[0].Size != 5 {
		t.Errorf("PushIndex: %+v, %v", pushed, err)
	}
	in := control.IndexRequest{Ref: "a/b", Digest: "sha256:i"}
	if pulled, err := c.PullIndex(ctx, in); err != nil || pulled.Digest != in.Digest {
		t.Errorf("PullIndex: %+v, %v", pulled, err)
	}
	if list, err := c.Indexes(ctx, "x&y=z"); err != nil || len(list) != 1 || list[0].Size != 9 {
		t.Errorf("Indexes: %+v, %v", list, err)
	}
	if got, err := c.RemoveIndexes(ctx, "x"); err != nil || got.Removed != 2 {
		t.Errorf("RemoveIndexes: %+v, %v", got, err)
	}
	if diff := cmp.Diff([]any{"push a/b:c&d", in, "ls x&y=z", "rm x"}, r.calls); diff != "" {
		t.Errorf("calls that arrived:\n%s", diff)
	}
	r.err = fserr.Newf(fserr.Busy, "remove", "x", "in use")
	if _, err := c.RemoveIndexes(ctx, "x"); fserr.KindOf(err) != fserr.Busy {
		t.Errorf("an error came back as %v", err)
	}
}

func serve(t *testing.T, s control.Service) *control.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "c.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("up 1\n")) })
	srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: control.NewHandler(s, metrics)}}
	srv.Start()
	t.Cleanup(srv.Close)
	c := control.NewClient(socket)
	t.Cleanup(c.Close)
	return c
}

func TestEveryCallArrives(t *testing.T) {
	r := &recorder{}
	c := serve(t, r)
	ctx := t.Context()
	layer := control.Layer{Ref: "r", Digest: "sha256:d", ChainID: "sha256:c", Labels: map[string]string{"k": "v"}}
	st, err := c.AddLayer(ctx, layer)
	if err != nil || st.Digest != "sha256:d" || !st.Lazy || st.Size != 7 {
		t.Errorf("AddLayer: %+v, %v", st, err)
	}
	mount := control.MountRequest{Aname: "chain/sha256:c", Target: "/mnt a?b&c"}
	for name, err := range map[string]error{
		"mount":   c.Mount(ctx, mount),
		"unmount": c.Unmount(ctx, "/mnt a?b&c"),
		"remove":  c.RemoveChain(ctx, "sha256:c/../x"),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st, err := c.Status(ctx); err != nil || st.PID != 3 {
		t.Errorf("Status: %+v, %v", st, err)
	}
	seen := map[any]bool{}
	for _, call := range r.calls[1:] {
		seen[call] = true
	}
	if diff := cmp.Diff(map[any]bool{mount: true, "/mnt a?b&c": true, "sha256:c/../x": true}, seen); diff != "" {
		t.Errorf("calls that arrived:\n%s", diff)
	}
	if diff := cmp.Diff(layer, r.calls[0]); diff != "" {
		t.Errorf("layer:\n%s", diff)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	for _, kind := range fserr.Kinds() {
		c := serve(t, &recorder{err: fserr.Newf(kind, "read", "layer", "because")})
		err := c.Unmount(t.Context(), "/m")
		if fserr.KindOf(err) != kind || !strings.Contains(err.Error(), "because") {
			t.Errorf("%v arrived as %v: %v", kind, fserr.KindOf(err), err)
		}
	}
}

func TestNoDaemonIsExplained(t *testing.T) {
	c := control.NewClient(filepath.Join(t.TempDir(), "none.sock"))
	defer c.Close()
	_, err := c.Status(t.Context())
	if !fserr.Is(err, fserr.Unavailable) || !strings.Contains(err.Error(), "nineply daemon") {
		t.Errorf("unhelpful: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	h := control.NewHandler(&recorder{}, nil)
	tests := []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/v1/layers", "{", 400},
		{"POST", "/v1/layers", `{"unknown":1}`, 400},
		{"POST", "/v1/mounts", strings.Repeat(" ", 2<<20), 400},
		{"PUT", "/v1/mounts", "{}", 405},
		{"GET", "/v1/nothing", "", 404},
		{"GET", "/metrics", "", 404},
	}
	for _, tt := range tests {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body)))
		if w.Code != tt.want {
			t.Errorf("%s %s: status %d, want %d", tt.method, tt.path, w.Code, tt.want)
		}
	}
}
