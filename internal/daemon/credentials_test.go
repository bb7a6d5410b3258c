package daemon

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/testreg"
)

// private is a registry with an image that takes a password.
func private(t *testing.T) (*testreg.Registry, string) {
	t.Helper()
	reg := testreg.New(t, testreg.WithBearer("joe", "hush"))
	reg.AddImage("team/app", "v1", testreg.Image{Layers: []testreg.Layer{{Data: []byte("layer")}}})
	return reg, reg.Ref("team/app", "v1")
}

// sourcesOf opens the sources of a configuration.
func sourcesOf(t *testing.T, change func(c *config.Config)) *SourceSet {
	t.Helper()
	dir := t.TempDir()
	c := config.Default(dir, dir)
	c.Registry.DockerConfig = filepath.Join(dir, "config.json")
	change(&c)
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	s := newSources(c, zap.NewNop())
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func resolve(t *testing.T, s *SourceSet, ref string) error {
	t.Helper()
	_, err := s.Resolve(t.Context(), ref, ocispec.Platform{OS: "linux", Architecture: "amd64"})
	return err
}

// TestPullSecrets reads an image with a secret of a cluster, whose API server is
// reached as through "kubectl proxy".
func TestPullSecrets(t *testing.T) {
	reg, ref := private(t)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") != "" {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		secret := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, `{"auths":{%q:{"username":"joe","password":"hush"}}}`, reg.Host()+"/team"))
		_ = json.NewEncoder(w).Encode(map[string]any{"items": []any{map[string]any{
			"metadata": map[string]any{"name": "s", "namespace": "n"}, "type": "kubernetes.io/dockerconfigjson",
			"data": map[string]any{".dockerconfigjson": secret},
		}}})
	}))
	t.Cleanup(api.Close)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: %q}}]\nusers: [{name: u, user: {}}]\n", api.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := sourcesOf(t, func(c *config.Config) {
		c.Registry.Kubernetes = config.Kubernetes{Secrets: true, Kubeconfig: kubeconfig}
	})
	if err := resolve(t, s, ref); err != nil {
		t.Error(err)
	}
}

// raw leaves messages alone.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (raw) Name() string { return "proto" }

// TestPullsOfKubelet reads an image with what a pull has shown.
func TestPullsOfKubelet(t *testing.T) {
	_, ref := private(t)
	dir := t.TempDir()
	runtime := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		var m []byte
		return errors.Join(s.RecvMsg(&m), s.SendMsg(&[]byte{}))
	}))
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "runtime.sock"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- runtime.Serve(ln) }()
	t.Cleanup(func() {
		runtime.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	socket := filepath.Join(dir, "cri.sock")
	s := sourcesOf(t, func(c *config.Config) {
		c.Registry.CRI.Listen, c.Registry.CRI.Runtime = "unix:"+socket, "unix:"+filepath.Join(dir, "runtime.sock")
	})
	if err := resolve(t, s, ref); !fserr.Is(err, fserr.Unauthorized) {
		t.Errorf("before the pull: %v", err)
	}
	if fi, err := os.Stat(socket); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket is for others too: %v, %v", fi.Mode(), err)
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	field := func(n protowire.Number, v string) string {
		return string(protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), v))
	}
	in, out := []byte(field(1, field(1, ref))+field(2, field(1, "joe")+field(2, "hush"))), []byte{}
	if err := conn.Invoke(t.Context(), "/runtime.v1.ImageService/PullImage", &in, &out); err != nil {
		t.Fatal(err)
	}
	if err := resolve(t, s, ref); err != nil {
		t.Errorf("after the pull: %v", err)
	}
}
