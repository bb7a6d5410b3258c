package deptest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath   string
	Dir          string
	Doc          string
	Imports      []string
	Deps         []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
}

// name is the import path inside the module.
func (p *pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

// list returns the packages of the module that hold more than tests.
func list(t *testing.T) []pkg {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Dir,Doc,Imports,Deps,GoFiles,TestGoFiles,XTestGoFiles", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// matches reports whether a name is one of the patterns.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		prefix, below := strings.CutSuffix(pattern, "...")
		return pattern == "*" || pattern == name || (below && strings.HasPrefix(name, prefix))
	})
}

// rule finds the entry of allowed for a package: its own, or the closest one
// for everything below a parent.
func rule(name string) ([]string, bool) {
	if list, ok := allowed[name]; ok {
		return list, true
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if list, ok := allowed[dir+"/..."]; ok {
			return list, true
		}
	}
	return nil, false
}

func TestImportsAreAllowed(t *testing.T) {
	for _, p := range list(t) {
		if len(p.GoFiles) == 0 {
			continue // tests alone may import what they like
		}
		may, ok := rule(p.name())
		if !ok {
			t.Errorf("%s has no line in rules_test.go: say what it may import", p.name())
			continue
		}
		for _, imported := range p.Imports {
			inside, ok := strings.CutPrefix(imported, module)
			if !ok {
				continue
			}
			if !matches(may, inside) {
				t.Errorf("%s imports %s, allowed are only %v", p.name(), inside, may)
			}
			if matches(testOnly, inside) && !matches(testOnly, p.name()) {
				t.Errorf("%s imports %s, which is for tests", p.name(), inside)
			}
		}
	}
}

func TestForbiddenIsUnreachable(t *testing.T) {
	for _, p := range list(t) {
		for _, dep := range p.Deps {
			if matches(unreachable[p.name()], dep) {
				t.Errorf("%s reaches %s", p.name(), dep)
			}
		}
		for _, imported := range p.Imports {
			for prefix, importers := range soleImporters {
				if strings.HasPrefix(imported, prefix) && !matches(importers, p.name()) && !matches(testOnly, p.name()) {
					t.Errorf("%s imports %s, only %v may", p.name(), imported, importers)
				}
			}
		}
	}
}

func TestPackagesAreNamedAndDescribed(t *testing.T) {
	for _, p := range list(t) {
		if slices.Contains(vagueNames, path.Base(p.name())) {
			t.Errorf("package name %s says nothing", p.name())
		}
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.name())
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	for _, p := range list(t) {
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			if n := countLines(t, filepath.Join(p.Dir, name)); n > maxLines {
				t.Errorf("%s/%s has %d lines, at most %d are allowed", p.name(), name, n, maxLines)
			}
		}
	}
}

func countLines(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, 1<<20)
	lines := 0
	for scanner.Scan() {
		lines++
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}
