package snapshotter

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

var (
	blobA, blobB = digest.FromString("a").String(), digest.FromString("b").String()
	diffA, diffB = digest.FromString("da"), digest.FromString("db")
	chainA       = diffA.String()
	chainB       = identity.ChainID([]digest.Digest{diffA, diffB}).String()
)

func TestParseLayer(t *testing.T) { //nolint:funlen // one table
	for _, tt := range []struct {
		name           string
		labels         map[string]string
		target, parent string
		want           Layer
		err            string
	}{
		{
			name: "containerd, lowest layer",
			labels: map[string]string{
				LabelImageRef: "docker.io/library/alpine:3", LabelLayerDigest: blobA,
				LabelManifestDigest: blobB, LabelImageLayers: blobA + "," + blobB,
			},
			target: chainA,
			want: Layer{Ref: "docker.io/library/alpine:3", Digest: blobA, ManifestDigest: blobB, ChainID: chainA,
				DiffID: chainA, Labels: map[string]string{LabelImageLayers: blobA + "," + blobB}},
		},
		{
			name: "second layer with its diff ID",
			labels: map[string]string{
				LabelImageRef: "ghcr.io/a/b@" + blobA, LabelLayerDigest: blobA, snapshots.LabelSnapshotDiffID: diffB.String(),
			},
			target: chainB, parent: chainA,
			want: Layer{Ref: "ghcr.io/a/b@" + blobA, Digest: blobA, ChainID: chainB, Parent: chainA, DiffID: diffB.String()},
		},
		{
			name:   "a diff ID that the chain ID does not prove",
			labels: map[string]string{LabelImageRef: "r.test/a", LabelLayerDigest: blobA, snapshots.LabelSnapshotDiffID: diffA.String()},
			target: chainB, parent: chainA,
			want: Layer{Ref: "r.test/a", Digest: blobA, ChainID: chainB, Parent: chainA},
		},
		{
			name: "stargz clients",
			labels: map[string]string{
				LabelStargzRef: "alpine", LabelStargzDigest: blobA, LabelStargzLayers: blobA, LabelTOCDigest: blobB,
				"containerd.io/snapshot/remote/urls": "https://evil.test/",
			},
			target: chainA,
			want: Layer{Ref: "docker.io/library/alpine", Digest: blobA, ChainID: chainA, DiffID: chainA,
				Labels: map[string]string{LabelImageLayers: blobA, LabelTOCDigest: blobB}},
		},
		{
			name:   "containerd's labels win",
			labels: map[string]string{LabelImageRef: "r.test/good", LabelStargzRef: "r.test/evil", LabelLayerDigest: blobA, LabelStargzDigest: blobB},
			target: chainA,
			want:   Layer{Ref: "r.test/good", Digest: blobA, ChainID: chainA, DiffID: chainA},
		},
		{
			name: "BuildKit, among blanked labels of other calls",
			labels: map[string]string{
				LabelStargzRef + ".aa": "", LabelStargzDigest + ".aa": "",
				LabelImageRef + ".x1": "r.test/x", LabelStargzRef + ".x1": "r.test/x", LabelStargzDigest + ".x1": blobA,
				LabelTOCDigest + ".x1":                                         blobB,
				"containerd.io/snapshot/remote/stargz.session.0.x1":            "s",
				LabelStargzDigest + ".y.1":                                     blobB,
				"containerd.io/snapshot/remote/stargz.reference.zz.not-a-pair": "r.test/z",
			},
			target: "buildkit-layer-snapshot-v1-sha256-1",
			want: Layer{Ref: "r.test/x", Digest: blobA, ChainID: chainKey("buildkit-layer-snapshot-v1-sha256-1"),
				Labels: map[string]string{LabelTOCDigest: blobB}},
		},
		{
			name:   "hints that are malformed are left out",
			labels: map[string]string{LabelImageRef: "r.test/a", LabelLayerDigest: blobA, LabelImageLayers: blobA + ",x", LabelTOCDigest: "http://x"},
			target: chainA,
			want:   Layer{Ref: "r.test/a", Digest: blobA, ChainID: chainA, DiffID: chainA},
		},
		{name: "nothing", target: chainA, err: errNoLabels.Error()},
		{name: "no digest", labels: map[string]string{LabelImageRef: "r.test/a"}, target: chainA, err: errNoLabels.Error()},
		{name: "halves of two calls", labels: map[string]string{LabelStargzRef + ".a": "r.test/a", LabelStargzDigest + ".b": blobA}, target: chainA, err: errNoLabels.Error()},
		{name: "URL", labels: map[string]string{LabelImageRef: "https://r.test/a", LabelLayerDigest: blobA}, target: chainA, err: "image reference"},
		{name: "path", labels: map[string]string{LabelImageRef: "/etc/passwd", LabelLayerDigest: blobA}, target: chainA, err: "image reference"},
		{name: "long", labels: map[string]string{LabelImageRef: strings.Repeat("a", 1025), LabelLayerDigest: blobA}, target: chainA, err: "limit 1024"},
		{name: "bad digest", labels: map[string]string{LabelImageRef: "r.test/a", LabelLayerDigest: "sha256:zz"}, target: chainA, err: "layer-digest"},
		{name: "sha512", labels: map[string]string{LabelImageRef: "r.test/a", LabelLayerDigest: digest.SHA512.FromString("a").String()}, target: chainA, err: "sha256"},
		{name: "bad manifest", labels: map[string]string{LabelImageRef: "r.test/a", LabelLayerDigest: blobA, LabelManifestDigest: "x"}, target: chainA, err: "manifest-digest"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseLayer(tt.labels, tt.target, tt.parent)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Errorf("error %v, layer (-want +got):\n%s", err, diff)
			}
		})
	}
}

// TestReferenceCannotBeAPath: what a source would take for a directory is given
// as the registry reference it is.
func TestReferenceCannotBeAPath(t *testing.T) {
	got, err := parseRef("oci:layout")
	if err != nil || got != "docker.io/library/oci:layout" {
		t.Errorf("%q, %v", got, err)
	}
	for _, s := range []string{"oci:/layout", "oci:./x", "file:///x", "", " ", "a b", "UPPER", "r.test/a:tag:tag"} {
		if got, err := parseRef(s); err == nil {
			t.Errorf("%q was taken for %q", s, got)
		}
	}
}

func TestIsRebase(t *testing.T) {
	labels := map[string]string{labelParentChain: chainA, snapshots.LabelSnapshotDiffID: diffB.String()}
	if !isRebase(labels, chainB, "") {
		t.Error("a parallel unpack is not recognised")
	}
	if isRebase(labels, chainB, "@remote/"+chainA) || isRebase(labels, chainA, "") || isRebase(nil, chainA, "") {
		t.Error("an ordinary Prepare is taken for a parallel unpack")
	}
}

// FuzzParseLayer: whatever the labels say, a layer that comes out is well formed.
func FuzzParseLayer(f *testing.F) {
	f.Add("docker.io/library/alpine:3", blobA, blobB, blobA+","+blobB, "", chainA)
	f.Add("oci:/x", "sha256:", "", ",", ".x1", "buildkit-layer-snapshot-v1-sha256-1")
	f.Add("a@"+blobA, blobA, blobA, blobA, ".a.b", "")
	f.Fuzz(func(t *testing.T, ref, dgst, manifest, layers, suffix, target string) {
		l, err := parseLayer(map[string]string{
			LabelStargzRef + suffix: ref, LabelStargzDigest + suffix: dgst, LabelManifestDigest + suffix: manifest,
			LabelImageLayers + suffix: layers, LabelTOCDigest + suffix: manifest,
			snapshots.LabelSnapshotDiffID: manifest, labelParentChain: layers,
		}, target, dgst)
		if err != nil {
			if l.Ref != "" || l.Digest != "" {
				t.Errorf("a layer with an error: %+v", l)
			}
			return
		}
		again, err := parseRef(l.Ref)
		if err != nil || again != l.Ref {
			t.Errorf("reference %q reads as %q, %v", l.Ref, again, err)
		}
		for _, d := range []string{l.Digest, l.ChainID} {
			if !isSHA256(d) {
				t.Errorf("%q is no sha256 digest", d)
			}
		}
		if c, ok := chainOf(fileName(l.ChainID)); !ok || c != l.ChainID || strings.ContainsAny(fileName(l.ChainID), "/\x00:") {
			t.Errorf("file name %q for chain %q", fileName(l.ChainID), l.ChainID)
		}
	})
}

// FuzzMapping: a mapping is read or refused.
func FuzzMapping(f *testing.F) {
	f.Add("0:100000:65536")
	f.Add("1:1:1,0:5:0,0:4294967295:1")
	f.Fuzz(func(t *testing.T, value string) {
		sh, err := parseShifting(map[string]string{snapshots.LabelSnapshotUIDMapping: value, snapshots.LabelSnapshotGIDMapping: value})
		if err == nil && (!sh.asked || sh.uid < 0 || sh.uid >= 1<<32-1) {
			t.Errorf("%q maps to %+v", value, sh)
		}
	})
}

func TestRecordIsChecked(t *testing.T) {
	j, err := openJournal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l := Layer{Ref: "r.test/a", Digest: blobA, ChainID: chainA, Labels: map[string]string{LabelTOCDigest: blobB}}
	if err := j.putChain(l); err != nil {
		t.Fatal(err)
	}
	got, err := j.layer(chainA)
	if diff := cmp.Diff(l, got); err != nil || diff != "" {
		t.Errorf("error %v, layer (-put +got):\n%s", err, diff)
	}
	// A record of the first version, as it is on hosts.
	old := `{"version":1,"layer":{"ref":"r.test/a","digest":"` + blobA + `","chain_id":"` + chainB + `","parent":"` + chainA + `"}}`
	if err := os.WriteFile(filepath.Join(j.chains, fileName(chainB)), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err = j.layer(chainB)
	want := Layer{Ref: "r.test/a", Digest: blobA, ChainID: chainB, Parent: chainA}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("error %v, layer (-want +got):\n%s", err, diff)
	}
	l.ChainID = chainB
	if err := errors.Join(j.putChain(l), renameRecord(j, chainB, chainA)); err != nil {
		t.Fatal(err)
	}
	if _, err := j.layer(chainA); err == nil {
		t.Error("the record of another chain was taken")
	}
}

func renameRecord(j journal, from, to string) error {
	return os.Rename(filepath.Join(j.chains, fileName(from)), filepath.Join(j.chains, fileName(to)))
}
