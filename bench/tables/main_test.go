package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const results = `{"area":"read","commit":"abc","go":"go1","kernel":"6.1","cpus":2,"date":"2026-01-02T03:04:05Z"}
{"name":"read/4k/hit","value":1234.5,"unit":"ns","n":5,"min":0.51234,"max":12.34,"bar":2000,"met":true}
{"name":"read/1M","value":2,"unit":"ratio","n":5,"min":2,"max":2,"bar":1.5,"met":false}
{"name":"other","value":7,"unit":"x","n":1,"min":7,"max":7}
`

func doc(spec, table string) string {
	return "# T\n\n<!-- bench:" + spec + " -->\n" + table + "<!-- /bench -->\nend\n"
}

func TestFill(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "read.jsonl"), []byte(results), 0o600); err != nil {
		t.Fatal(err)
	}
	head := "`make bench BENCH=read` on 2026-01-02, commit abc, go1, Linux 6.1, 2 CPUs.\n\n| | median | unit | min | max | n | bar |\n|---|--:|---|--:|--:|--:|---|\n"
	rows := []string{"| 4k/hit | 1234 | ns | 0.512 | 12.3 | 5 | 2000, met |\n", "| 1M | 2 | ratio | 2 | 2 | 5 | 1.5, **not met** |\n", "| other | 7 | x | 7 | 7 | 1 |  |\n"}
	for name, tt := range map[string]struct{ in, want string }{
		"all":            {doc("read", "old\n"), doc("read", head+strings.Join(rows, ""))},
		"a prefix":       {doc("read 4k/", ""), doc("read 4k/", head+rows[0])},
		"a unit":         {doc("read of x y", ""), doc("read of x y", head+rows[2])},
		"both":           {doc("read 4k of ns", ""), doc("read 4k of ns", head+rows[0])},
		"no results":     {doc("none", "kept\n"), doc("none", "kept\n")},
		"no tables":      {"text", "text"},
		"several tables": {doc("read 1M", "") + doc("read oth", ""), doc("read 1M", head+rows[1]) + doc("read oth", head+rows[2])},
	} {
		got, err := fill(tt.in, dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		if again, err := fill(got, dir); err != nil || again != got {
			t.Errorf("%s: a second run changes it: %v", name, err)
		}
	}
	for name, in := range map[string]string{
		"no end": "<!-- bench:read -->\n", "no close": "<!-- bench:read", "nothing begins so": doc("read zzz", ""),
	} {
		if _, err := fill(in, dir); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// What the documents say is what was measured.
func TestDocumentsAreUpToDate(t *testing.T) {
	if err := update("../../docs/benchmarks.md", "../results", true); err != nil {
		t.Error(err)
	}
}
