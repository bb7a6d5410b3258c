package verifier_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/verifier"
)

const (
	imageDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	mediaType   = "application/vnd.oci.descriptor.v1+json"
)

// daemon answers checks with a status and an error's kind.
func daemon(t *testing.T, status int, kind string) (socket string, asked *control.ImageCheck) {
	t.Helper()
	asked = new(control.ImageCheck)
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(asked); err != nil {
			t.Error(err)
		}
		w.WriteHeader(status)
		if kind != "" {
			_, _ = w.Write([]byte(`{"kind":"` + kind + `","error":"the reason"}`))
		}
	}))
	_ = srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	return socket, asked
}

func TestVerifier(t *testing.T) {
	args := []string{"-name", "r.test/app:1", "-digest", imageDigest, "-stdin-media-type", mediaType}
	desc := `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + imageDigest + `","size":7}`
	for _, tt := range []struct {
		name   string
		status int // 0: no daemon
		kind   string
		env    map[string]string
		args   []string
		stdin  string
		exit   int
		says   string
	}{
		{name: "nothing against it", status: 204, exit: 0, says: "no chain"},
		{name: "forged", status: 500, kind: "corrupt", exit: 1, says: "the reason"},
		{name: "claimed otherwise", status: 409, kind: "busy", exit: 1, says: "the reason"},
		{name: "registry down", status: 503, kind: "unavailable", exit: 0, says: "not checked"},
		{name: "no daemon", exit: 0, says: "not checked"},
		{name: "no daemon, and one is required", env: map[string]string{"NINEPLY_VERIFIER_REQUIRE": "1"}, exit: 1, says: "not checked"},
		{name: "another digest on the standard input", status: 204, stdin: `{"digest":"sha256:x"}`, exit: 1, says: "-digest says"},
		{name: "no JSON", status: 204, stdin: "x", exit: 1},
		{name: "another media type", status: 204, args: []string{"-name", "a", "-digest", imageDigest, "-stdin-media-type", "x"}, stdin: "x", exit: 0},
		{name: "no name", status: 204, args: []string{"-digest", imageDigest}, exit: 1, says: "needed"},
		{name: "unknown flag", status: 204, args: []string{"-x"}, exit: 1},
		{name: "bad timeout", status: 204, env: map[string]string{"NINEPLY_VERIFIER_TIMEOUT": "soon"}, exit: 1, says: "no duration"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			socket, asked := filepath.Join(t.TempDir(), "none"), new(control.ImageCheck)
			if tt.status != 0 {
				socket, asked = daemon(t, tt.status, tt.kind)
			}
			env := func(key string) string {
				if key == "NINEPLY_ADDRESS" {
					return "unix:" + socket
				}
				return tt.env[key]
			}
			if tt.args == nil {
				tt.args = args
			}
			if tt.stdin == "" {
				tt.stdin = desc
			}
			var out, errs bytes.Buffer
			exit := verifier.Run(context.Background(), tt.args, env, strings.NewReader(tt.stdin), &out, &errs)
			if exit != tt.exit || !strings.Contains(out.String(), tt.says) {
				t.Errorf("exit %d, %q", exit, out.String())
			}
			if tt.name == "nothing against it" && *asked != (control.ImageCheck{Ref: "r.test/app:1", Digest: imageDigest}) {
				t.Errorf("asked for %+v", *asked)
			}
		})
	}
}
