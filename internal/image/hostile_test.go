package image_test

import (
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/testreg"
)

// TestHostileTOCs: a layer whose TOC is absurd in a way that its manifest vouches
// for is served all the same, read whole and verified by its digest.
func TestHostileTOCs(t *testing.T) {
	footer := func(offset string) testreg.Layer {
		l := lazyLayer(t, file{name: "a", body: "alpha"})
		p := l.Data
		copy(p[len(p)-51+16:], offset)
		return l
	}
	zstdEntries := func(containers bool, entries ...map[string]any) testreg.Layer {
		b := newZstdBuilder(t)
		b.add("a", "alpha")
		b.entries = append(b.entries, entries...)
		return b.finish(containers)
	}
	annotated := func(key, value string) testreg.Layer {
		l := zstdEntries(true)
		l.Annotations[key] = value
		return l
	}
	sum := digest.FromString("x")
	file := func(size, offset, inner, chunk int64) map[string]any {
		return map[string]any{"name": "b", "type": "reg", "size": size, "offset": offset, "innerOffset": inner, "chunkSize": chunk, "chunkDigest": sum}
	}
	tests := []struct {
		name   string
		layer  testreg.Layer
		reason string
	}{
		{"TOC offset beyond the blob", footer("00000000ffffffff"), "TOC offset"},
		{"TOC offset with a sign", footer("-000000000000001"), "TOC offset"},
		{"position beyond the blob", annotated(estargz.AnnotationContainersPosition, "1099511627776:100:100:1"), "TOC offset"},
		{"length 2^62", annotated(estargz.AnnotationContainersPosition, "100:4611686018427387904:100:1"), "TOC offset"},
		{"raw length 2^62", annotated(estargz.AnnotationContainersPosition, "100:100:4611686018427387904:1"), "TOC too large"},
		{"position that is none", annotated(estargz.AnnotationContainersPosition, "-1:100:100:1"), "manifest"},
		{"hard link to its parent", zstdEntries(true, map[string]any{"name": "d", "type": "dir"}, map[string]any{"name": "d/l", "type": "hardlink", "linkName": "d"}), "hard link to a directory"},
		{"hard link cycle", zstdEntries(false, map[string]any{"name": "b", "type": "hardlink", "linkName": "c"}, map[string]any{"name": "c", "type": "hardlink", "linkName": "b"}), "cycle"},
		{"200,000 components", zstdEntries(false, map[string]any{"name": strings.Repeat("a/", 200_000), "type": "dir"}), "too long"},
		{"size 2^40, chunk size 1", zstdEntries(true, file(1<<40, 90, 0, 1)), "tile"},
		{"offset 2^40", zstdEntries(true, file(5, 1<<40, 0, 5)), "offset"},
		{"inner offset 2^50", zstdEntries(true, file(5, 90, 1<<50, 5)), "too far"},
		{"size 2^62", zstdEntries(true, file(1<<62, 90, 0, 0)), "chunk too large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg := testreg.New(t)
			reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{tt.layer}})
			n, _ := start(t, t.TempDir(), 0)
			check(t, n.tree(t, "image/"+reg.Ref("app", "v1")), map[string]string{"a": "alpha", "b": ""})
			if l := n.Layers()[0]; l.Format == "estargz" || l.Format == "zstd:chunked" || !strings.Contains(l.Reason, tt.reason) {
				t.Errorf("format %s, reason %q", l.Format, l.Reason)
			}
		})
	}
}
