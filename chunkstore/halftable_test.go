package chunkstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nineply/nineply/chunkstore"
)

// TestTableThatWasBeingWritten: a process that is killed while its database writes a
// table leaves a part of one, which is no reason to give up what the database has.
func TestTableThatWasBeingWritten(t *testing.T) {
	for name, part := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 4096), "garbage": []byte("half of a table")} {
		t.Run(name, func(t *testing.T) {
			opt := chunkstore.Options{Dir: t.TempDir()}
			s := open(t, opt)
			d, data := chunkOf(1, 5000)
			if _, err := s.Put(t.Context(), d, data); err != nil {
				t.Fatal(err)
			}
			if err := s.Records().Put(t.Context(), "name", []byte("value")); err != nil {
				t.Fatal(err)
			}
			closeStore(t, s)
			if err := os.WriteFile(filepath.Join(opt.Dir, "index", "000777.sst"), part, 0o600); err != nil {
				t.Fatal(err)
			}
			s = open(t, opt)
			if got, err := s.Records().Get(t.Context(), "name"); err != nil || string(got) != "value" {
				t.Errorf("the record: %q, %v", got, err)
			}
			if !s.Has(d) {
				t.Error("the chunk is gone")
			}
		})
	}
}
