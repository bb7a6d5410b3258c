package p9server_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/p9server"
)

var update = flag.Bool("update", false, "rewrite the errno table in docs/protocol.md")

// TestErrnoTable keeps the table of docs/protocol.md as the code has it.
func TestErrnoTable(t *testing.T) {
	const (
		file  = "../docs/protocol.md"
		begin = "<!-- errno table: made by TestErrnoTable -->\n"
		end   = "<!-- end of errno table -->"
	)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("| kind | errno |\n|---|---|\n")
	for _, kind := range fserr.Kinds() {
		errno := p9server.ErrnoOf(fserr.New(kind, "op", "object", nil))
		if wrapped := p9server.ErrnoOf(fmt.Errorf("wrapped: %w", fserr.New(kind, "", "", nil))); wrapped != errno {
			t.Errorf("%v: %v, wrapped %v", kind, errno, wrapped)
		}
		name := strings.Replace(unix.ErrnoName(errno), "ENOTSUP", "EOPNOTSUPP", 1) // one number, two names
		fmt.Fprintf(&table, "| %v | `%s` (%d) |\n", kind, name, int(errno))
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the marks of the table", file)
	}
	want := before + begin + table.String() + end + after
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(text) != want {
		t.Errorf("%s has another table than\n%s\nrun the test with -update", file, table.String())
	}
}
