package p9server_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// diod's clients are one more implementation, in C.
func TestDiodClients(t *testing.T) {
	for _, tool := range []string{"diodcat", "diodls"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s (Debian package diod) is not installed", tool)
		}
	}
	s := serve(t, p9test.Export(p9test.Reference(t)), p9server.Options{})
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), args[0], append([]string{"-s", s.addr, "-a", ""}, args[1:]...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for _, f := range p9test.ReferenceFiles() {
		switch f.Path {
		case "/big", "/remote", "/bin/sh", "/a/b/c/d/file", "/etc/empty":
			if got := run("diodcat", strings.TrimPrefix(f.Path, "/")); got != f.Data {
				t.Errorf("%s: %d bytes differ from the %d of the file", f.Path, len(got), len(f.Data))
			}
		}
	}
	names := strings.Fields(run("diodls", "many"))
	if len(names) < 60 || names[0] != "000" || names[59] != "059"+strings.Repeat("n", 59) {
		t.Errorf("listing: %q", names)
	}
}
