package demoimage

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// archive is a package archive that apt is configured to use.
type archive struct {
	URI     string
	Suite   string
	Keyring string // file, "" for apt's default
}

// errNoArchive says that apt knows no archive for the running release.
var errNoArchive = errors.New("apt has no source for this release")

// machineArchive finds the archive of the running release in the machine's own
// configuration, below root ("/" outside tests).
func machineArchive(root string) (archive, error) {
	release, err := os.ReadFile(filepath.Join(root, "etc/os-release"))
	if err != nil {
		return archive{}, fmt.Errorf("release of this machine: %w", err)
	}
	codename := osRelease(string(release), "VERSION_CODENAME")
	if codename == "" {
		return archive{}, fmt.Errorf("etc/os-release has no VERSION_CODENAME")
	}
	apt := filepath.Join(root, "etc/apt")
	files := []string{filepath.Join(apt, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, err := filepath.Glob(filepath.Join(apt, "sources.list.d", pattern))
		if err != nil {
			return archive{}, fmt.Errorf("apt sources: %w", err)
		}
		files = append(files, more...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return archive{}, fmt.Errorf("apt sources: %w", err)
		}
		parse := oneLineSources
		if filepath.Ext(file) == ".sources" {
			parse = deb822Sources
		}
		for _, a := range parse(string(text)) {
			if a.Suite == codename {
				return a, nil
			}
		}
	}
	return archive{}, fmt.Errorf("%w (%s)", errNoArchive, codename)
}

// osRelease returns the value of a key in the format of os-release(5).
func osRelease(text, key string) string {
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && name == key {
			return strings.Trim(value, `"'`)
		}
	}
	return ""
}

// oneLineSources reads the old format of sources.list(5):
//
//	deb [ option=value ... ] URI suite component ...
//
// Only binary archives with the component main are returned.
func oneLineSources(text string) []archive {
	var found []archive
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || strings.TrimLeft(rest, " \t") == rest {
			continue
		}
		rest = strings.TrimSpace(rest)
		var options string
		if after, ok := strings.CutPrefix(rest, "["); ok {
			options, rest, _ = strings.Cut(after, "]")
		}
		words := strings.Fields(rest)
		if len(words) < 3 || !slices.Contains(words[2:], "main") {
			continue
		}
		a := archive{URI: words[0], Suite: words[1]}
		for option := range strings.FieldsSeq(options) {
			if value, ok := strings.CutPrefix(option, "signed-by="); ok {
				a.Keyring = value
			}
		}
		found = append(found, a)
	}
	return found
}

// deb822Sources reads the stanza format of sources.list(5).
func deb822Sources(text string) []archive {
	var found []archive
	for _, stanza := range stanzas(text) {
		if !slices.Contains(strings.Fields(stanza["types"]), "deb") || strings.EqualFold(stanza["enabled"], "no") ||
			!slices.Contains(strings.Fields(stanza["components"]), "main") {
			continue
		}
		keyring := stanza["signed-by"]
		if !strings.HasPrefix(keyring, "/") {
			keyring = "" // a key in the text itself, or none
		}
		for uri := range strings.FieldsSeq(stanza["uris"]) {
			for suite := range strings.FieldsSeq(stanza["suites"]) {
				found = append(found, archive{URI: uri, Suite: suite, Keyring: keyring})
			}
		}
	}
	return found
}

// stanzas splits deb822 text into stanzas of fields with lower-case names.
func stanzas(text string) []map[string]string {
	var all []map[string]string
	var current map[string]string
	var field string
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		line := scanner.Text()
		name, value, ok := strings.Cut(line, ":")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			current = nil
		case current != nil && (line[0] == ' ' || line[0] == '\t'):
			current[field] += "\n" + strings.TrimSpace(line)
		case ok:
			if current == nil {
				current = map[string]string{}
				all = append(all, current)
			}
			field = strings.ToLower(strings.TrimSpace(name))
			current[field] = strings.TrimSpace(value)
		}
	}
	return all
}

// CacheDir is where what is costly to make is kept: $NINEPLY_CACHE, else
// nineply in the user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("NINEPLY_CACHE"); dir != "" {
		return dir, nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache directory: %w", err)
	}
	return filepath.Join(cmp.Or(base, "/var/cache"), "nineply"), nil
}
