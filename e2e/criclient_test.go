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

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/testreg"
)

// The messages of the container runtime interface are written by hand: the few
// that kubelet's way of starting a pod needs have few fields.

// str, sub and num are a field of a message.
func str(n protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), v)
}

func sub(n protowire.Number, fields ...[]byte) []byte { return str(n, string(bytes.Join(fields, nil))) }

func num(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

// field finds the first field n of a message.
func field(t *testing.T, message []byte, n protowire.Number) (text []byte, value uint64) {
	t.Helper()
	for len(message) > 0 {
		num, typ, size := protowire.ConsumeTag(message)
		if size < 0 {
			t.Fatal(protowire.ParseError(size))
		}
		message = message[size:]
		if size = protowire.ConsumeFieldValue(num, typ, message); size < 0 {
			t.Fatal(protowire.ParseError(size))
		}
		if num == n && typ == protowire.BytesType {
			text, _ = protowire.ConsumeBytes(message)
			return text, 0
		}
		if num == n && typ == protowire.VarintType {
			value, _ = protowire.ConsumeVarint(message)
			return nil, value
		}
		message = message[size:]
	}
	return nil, 0
}

// kubelet does with a runtime what kubelet does.
type kubelet struct {
	t       *testing.T
	runtime *grpc.ClientConn
	images  *grpc.ClientConn // the same, unless the image service is elsewhere
	logs    string
	pods    int
	userns  []byte // field userns_options of new pods
}

func newKubelet(t *testing.T, runtime, images string) *kubelet {
	t.Helper()
	k := &kubelet{t: t, logs: t.TempDir()}
	for socket, conn := range map[string]**grpc.ClientConn{runtime: &k.runtime, images: &k.images} {
		c, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(untouched{})))
		must(t, err)
		t.Cleanup(func() { must(t, c.Close()) })
		*conn = c
	}
	if k.images == nil {
		k.images = k.runtime
	}
	if k.runtime == nil {
		k.runtime = k.images
	}
	return k
}

func (k *kubelet) try(conn *grpc.ClientConn, method string, fields ...[]byte) ([]byte, error) {
	in, out := bytes.Join(fields, nil), []byte{}
	ctx, cancel := context.WithTimeout(k.t.Context(), 2*time.Minute)
	defer cancel()
	err := conn.Invoke(ctx, "/runtime.v1."+method, &in, &out)
	return out, err
}

func (k *kubelet) call(conn *grpc.ClientConn, method string, fields ...[]byte) []byte {
	k.t.Helper()
	out, err := k.try(conn, method, fields...)
	if err != nil {
		k.t.Fatalf("%s: %v", method, err)
	}
	return out
}

// pull pulls an image; user may be empty.
func (k *kubelet) pull(ref, user, password string) error {
	fields := [][]byte{sub(1, str(1, ref))}
	if user != "" {
		fields = append(fields, sub(2, str(1, user), str(2, password)))
	}
	_, err := k.try(k.images, "ImageService/PullImage", fields...)
	return err
}

func (k *kubelet) removeImage(ref string) {
	k.t.Helper()
	k.call(k.images, "ImageService/RemoveImage", sub(1, str(1, ref)))
}

// network is the host's, so that no CNI plugin is needed.
const nodeNamespace = 2

// run runs a pod with one container to its end and gives what it wrote. mounts are
// more fields of the container's configuration. inspect, which may be nil, sees the
// container's ID before anything is removed.
func (k *kubelet) run(ref string, command []string, mounts [][]byte, inspect func(id string)) string {
	k.t.Helper()
	k.pods++
	name := fmt.Sprintf("pod%d", k.pods)
	namespaces := sub(1, num(1, nodeNamespace), k.userns)
	pod := bytes.Join([][]byte{
		sub(1, str(1, name), str(2, name), str(3, "default")), str(3, k.logs), sub(8, sub(2, namespaces)),
	}, nil)
	sandbox, _ := field(k.t, k.call(k.runtime, "RuntimeService/RunPodSandbox", sub(1, pod)), 1)
	defer k.call(k.runtime, "RuntimeService/RemovePodSandbox", str(1, string(sandbox)))
	container := [][]byte{sub(1, str(1, "c")), sub(2, str(1, ref))}
	for _, arg := range command {
		container = append(container, str(3, arg))
	}
	container = append(container, mounts...)
	container = append(container, str(11, name+".log"), sub(15, sub(2, sub(3, num(1, nodeNamespace), k.userns))))
	created, _ := field(k.t, k.call(k.runtime, "RuntimeService/CreateContainer", str(1, string(sandbox)), sub(2, container...), sub(3, pod)), 1)
	id := string(created)
	k.call(k.runtime, "RuntimeService/StartContainer", str(1, id))
	eventually(k.t, "the container ends", func() bool {
		status, _ := field(k.t, k.call(k.runtime, "RuntimeService/ContainerStatus", str(1, id)), 1)
		const exited = 2
		_, state := field(k.t, status, 3)
		return state == exited
	})
	if inspect != nil {
		inspect(id)
	}
	out, err := os.ReadFile(filepath.Join(k.logs, name+".log"))
	must(k.t, err)
	return string(out)
}

// busybox puts an image into a registry that has a shell and files with different
// owners.
func busybox(t *testing.T, reg *testreg.Registry, name string) testreg.Added {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	must(t, err)
	var raw, blob bytes.Buffer
	tw := tar.NewWriter(&raw)
	add := func(h tar.Header, body []byte) {
		h.Size = int64(len(body))
		must(t, tw.WriteHeader(&h))
		_, err := tw.Write(body)
		must(t, err)
	}
	add(tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, program)
	for _, link := range []string{"sh", "cat", "stat", "sleep"} {
		add(tar.Header{Name: "bin/" + link, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	for _, dir := range []string{"proc/", "sys/", "dev/", "etc/", "tmp/", "data/"} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "data/root", Typeflag: tar.TypeReg, Mode: 0o600}, []byte("of root\n"))
	add(tar.Header{Name: "data/joe", Typeflag: tar.TypeReg, Mode: 0o600, Uid: 1000, Gid: 1001}, []byte("of joe\n"))
	add(tar.Header{Name: "data/big", Typeflag: tar.TypeReg, Mode: 0o644, Uid: 7}, bytes.Repeat([]byte("0123456789abcde\n"), 1<<19))
	add(tar.Header{Name: "data/name", Typeflag: tar.TypeReg, Mode: 0o644}, []byte(name)) // no two images are the same
	must(t, tw.Close())
	w := estargz.NewWriter(&blob, estargz.WriterOptions{})
	must(t, w.AppendTar(t.Context(), &raw))
	res, err := w.Close()
	must(t, err)
	return reg.AddImage(name, "latest", testreg.Image{
		Config: ocispec.ImageConfig{Cmd: []string{"/bin/sleep", "1000000"}, Env: []string{"PATH=/bin"}},
		Layers: []testreg.Layer{{
			Data: blob.Bytes(), DiffID: digest.Digest(res.DiffID.String()), Annotations: map[string]string{estargz.AnnotationTOCDigest: res.TOCDigest.String()},
		}},
	})
}
