package daemon_test

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/testreg"
)

// learn reads a file of an image over 9P and waits until its profile is kept.
func (r *running) learn(t *testing.T, ref, name string) control.Profile {
	t.Helper()
	if _, err := r.cat(t.Context(), "image/"+ref, name); err != nil {
		t.Fatal(err)
	}
	for {
		list, err := r.client.Profiles(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) > 0 {
			return list[0]
		}
		runtime.Gosched()
	}
}

// TestProfilesTravel has one node learn a profile, and others get it by a file and
// beside the image.
func TestProfilesTravel(t *testing.T) {
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{lazyLayer(t, "hello", "world")}})
	ref := reg.Ref("app", "v1")
	first := run(t, t.TempDir())
	if p := first.learn(t, ref, "hello"); p.Runs != 1 || p.Chunks != 1 || p.Bytes != 5 || p.Origin != "" {
		t.Errorf("learnt %+v", p)
	}
	d, err := first.client.Profile(t.Context(), ref)
	if err != nil || len(d.Files) != 1 || d.Files[0].Path != "hello" || !d.Files[0].Usual {
		t.Errorf("files %+v, %v", d.Files, err)
	}
	records, err := first.client.ExportProfile(t.Context(), ref, control.RecordsFormat)
	if err != nil || !strings.HasPrefix(string(records.Data), `{"path":"hello",`) {
		t.Errorf("records %q, %v", records.Data, err)
	}
	file, err := first.client.ExportProfile(t.Context(), ref, control.ProfileFormat)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.client.ExportProfile(t.Context(), ref, "xml"); !fserr.Is(err, fserr.Invalid) {
		t.Errorf("an unknown format: %v", err)
	}
	pushed, err := first.client.PushProfile(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}

	second := run(t, t.TempDir())
	for _, data := range []control.ProfileData{file, {Name: ref, Format: control.RecordsFormat, Data: records.Data}} {
		if p, err := second.client.ImportProfile(t.Context(), data); err != nil || p.Chunks != 1 || p.Origin == "" {
			t.Errorf("imported %+v, %v", p, err)
		}
		if err := second.client.RemoveProfile(t.Context(), ref); err != nil {
			t.Error(err)
		}
	}
	if err := second.client.RemoveProfile(t.Context(), ref); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("removing it again: %v", err)
	}
	if p, err := second.client.PullProfile(t.Context(), control.ProfileRequest{Ref: ref}); err != nil || p.Origin != "pulled: "+pushed.Digest {
		t.Errorf("pulled %+v, %v", p, err)
	}
	if _, err := second.cat(t.Context(), "image/"+ref, "hello"); err != nil {
		t.Error(err)
	}
	if text := second.metrics(t); !strings.Contains(text, "\nnineply_profile_applied_total 1\n") {
		t.Error("the profile was not applied")
	}
}

// metrics gives what the control socket says at /metrics.
func (r *running) metrics(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(r.cfg.State, "control.sock")
	if _, err := os.Stat(socket); err != nil {
		t.Fatal(err)
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://nineply/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
