package vm

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// moduleName is the name of a module by its file: dashes and underscores are
// the same to the kernel.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// resolveModules returns the files of the named modules and of all that they
// depend on, in loading order. Modules built into the kernel are left out.
func resolveModules(tree string, names []string) ([]string, error) {
	deps, err := readModuleDeps(filepath.Join(tree, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := readBuiltin(filepath.Join(tree, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	files := make(map[string]string, len(deps))
	for file := range deps {
		files[moduleName(file)] = file
	}
	var order []string
	for _, name := range names {
		name = moduleName(name)
		file, ok := files[name]
		if !ok && builtin[name] {
			continue
		}
		if !ok {
			return nil, fmt.Errorf("kernel module %s is not in %s", name, tree)
		}
		// modules.dep lists every dependency, the deepest one last.
		needed := append([]string{file}, deps[file]...)
		slices.Reverse(needed)
		for _, file := range needed {
			path := filepath.Join(tree, file)
			if !slices.Contains(order, path) {
				order = append(order, path)
			}
		}
	}
	return order, nil
}

func readModuleDeps(path string) (map[string][]string, error) {
	deps := map[string][]string{}
	err := eachLine(path, func(line string) {
		file, rest, ok := strings.Cut(line, ":")
		if ok {
			deps[file] = strings.Fields(rest)
		}
	})
	return deps, err
}

func readBuiltin(path string) (map[string]bool, error) {
	builtin := map[string]bool{}
	err := eachLine(path, func(line string) { builtin[moduleName(line)] = true })
	return builtin, err
}

func eachLine(path string, fn func(string)) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		fn(scanner.Text())
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("kernel modules: %s: %w", path, err)
	}
	return nil
}
