package demoimage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMachineArchive(t *testing.T) {
	const release = "ID=debian\nVERSION_CODENAME=bookworm\n"
	for _, test := range []struct {
		name  string
		files map[string]string
		want  archive
		err   error
	}{
		{
			name:  "one line",
			files: map[string]string{"sources.list": "# deb http://no.example/x bookworm main\ndeb-src http://src.example bookworm main\ndeb http://a.example/debian bookworm main contrib\n"},
			want:  archive{URI: "http://a.example/debian", Suite: "bookworm"},
		}, {
			name:  "one line with options, after another suite",
			files: map[string]string{"sources.list.d/x.list": "deb http://b.example bookworm-updates main\ndeb [arch=amd64 signed-by=/k.gpg] http://a.example bookworm main # note\n"},
			want:  archive{URI: "http://a.example", Suite: "bookworm", Keyring: "/k.gpg"},
		}, {
			name: "stanzas",
			files: map[string]string{
				"sources.list":             "",
				"sources.list.d/a.sources": "Types: deb\nURIs: http://other.example\nSuites: nodistro\nComponents: main\n",
				"sources.list.d/d.sources": "Types: deb-src\nURIs: http://s.example\nSuites: bookworm\nComponents: main\n\nTypes: deb deb-src\n# comment\nURIs: http://a.example\nSuites: bookworm-updates\n bookworm\nComponents: main contrib\nSigned-By: /k.gpg\n",
			},
			want: archive{URI: "http://a.example", Suite: "bookworm", Keyring: "/k.gpg"},
		}, {
			name:  "disabled stanza",
			files: map[string]string{"sources.list.d/d.sources": "Types: deb\nEnabled: no\nURIs: http://a.example\nSuites: bookworm\nComponents: main\n"},
			err:   errNoArchive,
		}, {
			name:  "no main",
			files: map[string]string{"sources.list": "deb http://a.example bookworm contrib\ndeb http://a.example bookworm/\n"},
			err:   errNoArchive,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			write(t, filepath.Join(root, "etc/os-release"), release)
			for name, text := range test.files {
				write(t, filepath.Join(root, "etc/apt", name), text)
			}
			got, err := machineArchive(root)
			if diff := cmp.Diff(test.want, got); diff != "" || !errors.Is(err, test.err) {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
	if _, err := machineArchive(t.TempDir()); err == nil {
		t.Error("a machine without os-release has an archive")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func FuzzSources(f *testing.F) {
	f.Add("deb [signed-by=/k] http://a.example bookworm main\n")
	f.Add("Types: deb\nURIs: http://a.example\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, a := range append(oneLineSources(text), deb822Sources(text)...) {
			if a.URI == "" || a.Suite == "" {
				t.Errorf("half an archive: %+v", a)
			}
		}
	})
}
