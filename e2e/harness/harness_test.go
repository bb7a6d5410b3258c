package harness_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/demoimage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func smallImage(t *testing.T) *demoimage.Image {
	t.Helper()
	if testing.Short() {
		t.Skip("starts programs")
	}
	im, err := demoimage.BuildSmall(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// TestProxyCountsWhatTheRegistryServes: the two accounts, the proxy's and the
// registry's own log, agree, and every byte of every layer passed once.
func TestProxyCountsWhatTheRegistryServes(t *testing.T) {
	im := smallImage(t)
	registry := harness.StartRegistry(t)
	registry.Push(t, im, "small")
	proxy := harness.StartProxy(t, registry.Addr, harness.Shape{Latency: time.Millisecond, BytesPerSecond: 1 << 30})
	before := registry.LoggedBlobReads(t)
	harness.Run(t, "skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false",
		"docker://"+proxy.Addr+"/small:latest", "dir:"+t.TempDir())
	counts := proxy.Counts()
	want, got := map[string]int64{}, map[string]int64{}
	for _, layer := range im.Layers {
		want[layer.Digest.String()] = layer.Size
		got[layer.Digest.String()] = counts.Blobs[layer.Digest.String()].Bytes
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("bytes of layers (-want +got):\n%s", diff)
	}
	if logged := registry.LoggedBlobReads(t) - before; logged != counts.BlobRequests() || logged != 3 {
		t.Errorf("registry logged %d blob reads, proxy counted %d, want 3", logged, counts.BlobRequests())
	}
	proxy.Reset()
	if counts := proxy.Counts(); counts.Requests != 0 || counts.BlobBytes() != 0 {
		t.Errorf("after Reset: %+v", counts)
	}
}

func TestProxyFaults(t *testing.T) {
	im := smallImage(t)
	registry := harness.StartRegistry(t)
	registry.Push(t, im, "small")
	proxy := harness.StartProxy(t, registry.Addr, harness.Shape{})
	for _, test := range []struct {
		name  string
		fault harness.Fault
		says  string
	}{
		{"status", harness.Fault{Status: http.StatusForbidden}, "403"},
		{"cut", harness.Fault{CutAfter: 1000}, "EOF"},
		{"corrupt", harness.Fault{Corrupt: true}, "Digest did not match"},
	} {
		t.Run(test.name, func(t *testing.T) {
			proxy.SetFault(func(r *http.Request) harness.Fault {
				if strings.Contains(r.URL.Path, "/blobs/"+im.Layers[1].Digest.String()) {
					return test.fault
				}
				return harness.Fault{}
			})
			_, err := harness.TryRun(t, "skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false",
				"docker://"+proxy.Addr+"/small:latest", "dir:"+t.TempDir())
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("a pull through the fault: %v, want an error with %q", err, test.says)
			}
		})
	}
}

// TestContainerdPullsAndRestarts: each containerd of the tests pulls through
// the proxy with a snapshotter of its own and remembers it after a restart.
func TestContainerdPullsAndRestarts(t *testing.T) {
	im := smallImage(t)
	registry := harness.StartRegistry(t)
	registry.Push(t, im, "small")
	for name, start := range map[string]func(testing.TB, *harness.Plugin, ...string) *harness.Containerd{
		"1.6": harness.StartContainerd1, "2.x": harness.StartContainerd2,
	} {
		t.Run(name, func(t *testing.T) {
			proxy := harness.StartProxy(t, registry.Addr, harness.Shape{})
			c := start(t, nil, proxy.Addr)
			ref := proxy.Addr + "/small:latest"
			c.Ctr(t, "images", "pull", "--plain-http", "--snapshotter", "overlayfs", ref)
			if got := proxy.Counts().BlobBytes(); got < im.Size() {
				t.Errorf("a full pull read %d blob bytes, want at least %d", got, im.Size())
			}
			if got := len(c.Content(t, c.Namespace)); got < len(im.Layers)+2 {
				t.Errorf("%d blobs in the content store after a full pull", got)
			}
			c.Kill()
			c.Start(t)
			if list := c.Ctr(t, "images", "ls", "--quiet"); !strings.Contains(list, ref) {
				t.Errorf("images after a restart: %q", list)
			}
		})
	}
}
