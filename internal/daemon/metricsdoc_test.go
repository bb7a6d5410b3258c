package daemon

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the table of metrics anew")

const (
	metricsDoc  = "../../docs/metrics.md"
	tableBegins = "| metric | type | labels | what it is |\n|---|---|---|---|\n"
)

// TestMetricsAreDocumented holds the table of the documentation against what the
// sources of this package define.
func TestMetricsAreDocumented(t *testing.T) {
	rows := definedMetrics(t)
	slices.Sort(rows)
	text, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableBegins)
	if !ok {
		t.Fatalf("%s has no table of metrics", metricsDoc)
	}
	end := strings.Index(rest, "\n\n") + 1
	if end == 0 {
		end = len(rest)
	}
	want := strings.Join(rows, "")
	if *update {
		if err := os.WriteFile(metricsDoc, []byte(before+tableBegins+want+rest[end:]), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, rest[:end]); diff != "" {
		t.Errorf("%s (-want +got); -update writes it anew:\n%s", metricsDoc, diff)
	}
}

// definedMetrics gives a row for each call that defines a metric.
func definedMetrics(t *testing.T) []string {
	t.Helper()
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	files := token.NewFileSet()
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(files, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if row := definition(call); row != "" {
					rows = append(rows, row)
				}
			}
			return true
		})
	}
	return rows
}

// definition gives the row of a call of newMetric or newHistogram with a name; or
// nothing.
func definition(call *ast.CallExpr) string {
	fn, ok := call.Fun.(*ast.Ident)
	if !ok || len(call.Args) < 2 || fn.Name != "newMetric" && fn.Name != "newHistogram" {
		return ""
	}
	var words []string // names but for the kind, which is no literal
	kind := "histogram"
	for _, arg := range call.Args {
		switch arg := arg.(type) {
		case *ast.BasicLit:
			word, err := strconv.Unquote(arg.Value)
			if err != nil {
				return ""
			}
			words = append(words, word)
		case *ast.Ident:
			kind = arg.Name
		}
	}
	if len(words) < 2 {
		return "" // newHistogram's own
	}
	labels := ""
	for i, l := range words[2:] {
		labels += strings.Repeat(", ", min(i, 1)) + "`" + l + "`"
	}
	return fmt.Sprintf("| `nineply_%s` | %s | %s | %s |\n", words[0], kind, labels, words[1])
}
