package layerstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nineply/nineply/internal/layerstore"
)

// FuzzTable: whatever is in the file, a store starts or refuses to, and one that
// starts lists what it read.
func FuzzTable(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"version":2}`, `{"version":1,"records":[null]}`, `{"version":1,"records":[{"ref":"a"}]}`,
		`{"version":1,"records":[{"ref":"a","name":"` + digest("1") + `","manifest":"` + digest("1") + `","layer":{"digest":"` + digest("1") + `"},"chain":"` + digest("1") + `","uses":{"0":1}}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "t")
		must(t, os.WriteFile(path, text, 0o600))
		s, err := layerstore.New(layerstore.Options{Daemon: newFake(), File: path, Mounts: t.TempDir()})
		if err != nil {
			return
		}
		for _, r := range s.List() {
			if r.Used() < 0 || r.Ref == "" {
				t.Errorf("%+v", r)
			}
			if _, err := r.Info(); err != nil {
				t.Error(err)
			}
		}
	})
}
