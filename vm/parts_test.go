package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/vm/internal/bootspec"
)

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	tree := t.TempDir()
	writeFile(t, filepath.Join(tree, "modules.dep"),
		"fs/9p/9p.ko: net/9p/9pnet.ko fs/netfs.ko\nnet/9p/9pnet_fd.ko: net/9p/9pnet.ko\nnet/9p/9pnet.ko:\nfs/netfs.ko:\n")
	writeFile(t, filepath.Join(tree, "modules.builtin"), "kernel/fs/virtio-core.ko\n")
	got, err := resolveModules(tree, []string{"9pnet_fd", "virtio_core", "9p"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"net/9p/9pnet.ko", "net/9p/9pnet_fd.ko", "fs/netfs.ko", "fs/9p/9p.ko"}
	for i := range want {
		want[i] = filepath.Join(tree, want[i])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("loading order (-want +got):\n%s", diff)
	}
	if _, err := resolveModules(tree, []string{"no-such"}); err == nil {
		t.Error("a module that does not exist was resolved")
	}
}

// TestCPIOIsReadByCPIO: an independent reader finds the names and contents.
func TestCPIOIsReadByCPIO(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip(err)
	}
	var archive bytes.Buffer
	c := newCPIO(&archive)
	c.bytes("/a/b/odd", []byte("12345"), 0o640)
	c.bytes("/a/even", []byte("1234"), 0o600)
	if err := c.finish(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "cpio", "-i", "--quiet", "--no-absolute-filenames")
	cmd.Stdin, cmd.Dir = &archive, t.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(cmd.Dir, "a/b/odd"))
	if err != nil || string(got) != "12345" {
		t.Errorf("content %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(cmd.Dir, "a/even")); err != nil {
		t.Error(err)
	}
}

func TestReportSplitting(t *testing.T) {
	for _, test := range []struct {
		name, report, output string
		status               int
		ok                   bool
	}{
		{"empty", "", "", -1, false},
		{"died", "half a li", "half a li", -1, false},
		{"status", "out\n" + string(bootspec.Trailer(3)), "out\n", 3, true},
		{"output with a trailer of its own", string(bootspec.Trailer(1)) + string(bootspec.Trailer(0)), string(bootspec.Trailer(1)), 0, true},
		{"bad number", "x\x00nineply-guest-exit:no\n", "x", -1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			output, status, err := bootspec.SplitReport([]byte(test.report))
			if string(output) != test.output || status != test.status || (err == nil) != test.ok {
				t.Errorf("got %q, %d, %v", output, status, err)
			}
		})
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
