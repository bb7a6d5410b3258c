package conformance_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// TestToolsUnpackOurs: gzip and zstd find nothing wrong with what we write, and
// GNU tar extracts from it what it extracts from the source.
func TestToolsUnpackOurs(t *testing.T) {
	needRoot(t)
	eachBlob(t, func(estargz.WriterOptions) bool { return true }, func(t *testing.T, text []byte, b *blob) {
		dir := t.TempDir()
		source, packed := filepath.Join(dir, "source.tar"), filepath.Join(dir, "layer")
		must(t, os.WriteFile(source, text, 0o600))
		must(t, os.WriteFile(packed, b.bytes, 0o600))
		program := map[string]string{estargz.MediaTypeGzip: "gzip", estargz.MediaTypeZstd: "zstd"}[b.MediaType]
		run(t, program, "--test", "--quiet", packed)
		want := untar(t, source)
		got := slices.DeleteFunc(untar(t, "--use-compress-program="+program, packed), func(n treesum.Node) bool { return ownFile(n.Path) })
		same(t, want, got)
	})
}

// untar lists what GNU tar extracts; the last argument is the file. Directories
// without an entry are left without a time.
func untar(t *testing.T, args ...string) []treesum.Node {
	t.Helper()
	dir := t.TempDir()
	start := time.Now().Unix()
	last := len(args) - 1
	run(t, slices.Concat([]string{"tar"}, args[:last], []string{
		"--extract", "--file", args[last], "--directory", dir, "--xattrs", "--xattrs-include=*", "--same-owner",
		"--same-permissions", "--numeric-owner", "--delay-directory-restore",
	})...)
	nodes, err := treesum.Walk(dir, treesum.Options{})
	must(t, err)
	for i := range nodes {
		if nodes[i].Sec >= start {
			nodes[i].Sec, nodes[i].Nsec = 0, 0
		}
	}
	return nodes
}

func run(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
}
