package e2e_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
)

// untouched is a codec for messages that are bytes.
type untouched struct{}

func (untouched) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (untouched) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(data)
	return nil
}

func (untouched) Name() string { return "proto" }

// pullAs asks a container runtime as kubelet does.
func pullAs(t *testing.T, socket, image, user, password string) error {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(untouched{})))
	must(t, err)
	defer func() { must(t, conn.Close()) }()
	field := func(n protowire.Number, v string) string {
		return string(protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), v))
	}
	in, out := []byte(field(1, field(1, image))+field(2, field(1, user)+field(2, password))), []byte{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return conn.Invoke(ctx, "/runtime.v1.ImageService/PullImage", &in, &out)
}

// smallImage puts an image with one lazy layer into the registry.
func smallImage(t *testing.T, reg *testreg.Registry, name, body string) testreg.Added {
	t.Helper()
	var raw, blob bytes.Buffer
	tw := tar.NewWriter(&raw)
	must(t, tw.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg}))
	_, err := tw.Write([]byte(body))
	must(t, err)
	must(t, tw.Close())
	w := estargz.NewWriter(&blob, estargz.WriterOptions{})
	must(t, w.AppendTar(t.Context(), &raw))
	res, err := w.Close()
	must(t, err)
	return reg.AddImage(name, "latest", testreg.Image{Layers: []testreg.Layer{{
		Data: blob.Bytes(), DiffID: digest.Digest(res.DiffID.String()), Annotations: map[string]string{estargz.AnnotationTOCDigest: res.TOCDigest.String()},
	}}})
}

// TestCredentialsOfKubelet has containerd pull as kubelet would, through the daemon,
// which has no other way to learn the password of the registry.
func TestCredentialsOfKubelet(t *testing.T) {
	start(t)
	for version, run := range containerds {
		t.Run(version, func(t *testing.T) {
			reg := testreg.New(t, testreg.WithBearer("joe", "hush"))
			added := smallImage(t, reg, "team/app", "what only joe may read")
			smallImage(t, reg, "other/app", "of another team")
			// The runtime is started after the snapshotter that it uses.
			runtime := filepath.Join(t.TempDir(), "runtime.sock")
			socket := filepath.Join(filepath.Dir(runtime), "cri.sock")
			daemon := harness.StartDaemon(t, programs, harness.DaemonOptions{
				Config:     fmt.Sprintf("[registry.cri]\nlisten = 'unix:%s'\nruntime = 'unix:%s'\n", socket, runtime),
				Registries: []string{reg.Host()},
			})
			c := run(t, daemon.Plugin(), reg.Host())
			must(t, os.Symlink(c.Address, runtime))

			ref := reg.Ref("team/app", "latest")
			if out, err := daemon.Try(t, "mount", ref, t.TempDir()); err == nil {
				t.Fatalf("mounted without a password: %s", out)
			}
			if err := pullAs(t, socket, ref, "joe", "wrong"); err == nil {
				t.Fatal("pulled with a wrong password")
			}
			must(t, pullAs(t, socket, ref, "joe", "hush"))
			if blobs := c.Content(t, "k8s.io"); len(blobs) > 2 {
				t.Errorf("containerd downloaded the layer: %v", blobs)
			}
			got, err := os.ReadFile(filepath.Join(daemon.Mount(t, ref), "file"))
			if err != nil || string(got) != "what only joe may read" {
				t.Errorf("%q, %v", got, err)
			}
			if reg.Count(testreg.Match{Digest: added.Layers[0].Digest}).Requests == 0 {
				t.Error("nobody asked for the layer")
			}
			if out, err := daemon.Try(t, "mount", reg.Ref("other/app", "latest"), t.TempDir()); err == nil {
				t.Errorf("the password was used for another repository: %s", out)
			}
		})
	}
}
