package layerstore

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/google/renameio/v2"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/control"
)

const (
	// tableVersion is the format of the file.
	tableVersion = 1
	// maxTable bounds the file, bytes, and maxRecords what is in it.
	maxTable   = 64 << 20
	maxRecords = 16384
)

// Record is a layer that was looked for.
type Record struct {
	Ref      string             `json:"ref"`      // as the client writes it
	Name     string             `json:"name"`     // the digest it was looked for by
	Manifest string             `json:"manifest"` // digest
	Layer    control.ImageLayer `json:"layer"`
	Chain    string             `json:"chain"` // what the daemon knows the layer by
	// Uses counts the clients that keep the layer, by user ID.
	Uses map[string]int `json:"uses,omitempty"`
	// Touched is when it was last looked for or released.
	Touched time.Time `json:"touched"`
}

// Used is how many clients keep the layer.
func (r *Record) Used() int {
	n := 0
	for _, of := range r.Uses {
		n += of
	}
	return n
}

func (r *Record) key() key { return key{r.Ref, r.Name} }

// count changes how often a user keeps the layer; it does not become negative.
func (r *Record) count(uid uint32, by int) {
	user := strconv.FormatUint(uint64(uid), 10)
	if r.Uses == nil {
		r.Uses = make(map[string]int)
	}
	if r.Uses[user] += by; r.Uses[user] <= 0 {
		delete(r.Uses, user)
	}
}

func (r *Record) check() error {
	if r.Ref == "" || len(r.Ref) > maxRef {
		return fmt.Errorf("a reference of %d bytes", len(r.Ref))
	}
	for _, d := range []string{r.Name, r.Manifest, r.Layer.Digest, r.Chain} {
		if _, err := estargz.ParseDigest(d); err != nil {
			return err
		}
	}
	return nil
}

// key is what a record is found by.
type key struct{ ref, name string }

type tableFile struct {
	Version int       `json:"version"`
	Records []*Record `json:"records"`
}

// loadTable reads the records. A missing file is an empty one.
func loadTable(path string) (map[key]*Record, error) {
	records := make(map[key]*Record)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return records, nil
	}
	if err != nil {
		return nil, fmt.Errorf("record of the layer store: %w", err)
	}
	if info.Size() > maxTable {
		return nil, fmt.Errorf("record of the layer store: %s has %d bytes", path, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("record of the layer store: %w", err)
	}
	list, err := parseTable(text)
	if err != nil {
		return nil, fmt.Errorf("record of the layer store: %s: %w", path, err)
	}
	for _, r := range list {
		records[r.key()] = r
	}
	return records, nil
}

func parseTable(text []byte) ([]*Record, error) {
	var f tableFile
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, err
	}
	if f.Version != tableVersion {
		return nil, fmt.Errorf("version %d, want %d", f.Version, tableVersion)
	}
	if len(f.Records) > maxRecords {
		return nil, fmt.Errorf("%d records, more than %d", len(f.Records), maxRecords)
	}
	for i, r := range f.Records {
		if r == nil {
			return nil, fmt.Errorf("record %d is null", i)
		}
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("record %d: %w", i, err)
		}
		for user, n := range r.Uses {
			if n <= 0 {
				return nil, fmt.Errorf("record %d: user %.32q has %d uses", i, user, n)
			}
		}
	}
	return f.Records, nil
}

// sorted lists records in the order of the file.
func sorted(records map[key]*Record) []*Record {
	list := make([]*Record, 0, len(records))
	for _, r := range records {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *Record) int {
		return cmp.Or(cmp.Compare(a.Ref, b.Ref), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// saveTable replaces the file in one step, durably.
func saveTable(path string, records map[key]*Record) error {
	text, err := json.MarshalIndent(tableFile{Version: tableVersion, Records: sorted(records)}, "", "\t")
	if err != nil {
		return fmt.Errorf("record of the layer store: %w", err)
	}
	if err := renameio.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("record of the layer store: %w", err)
	}
	return nil
}

// Read reads what a store has written down, whether it runs or not.
func Read(path string) ([]Record, error) {
	records, err := loadTable(path)
	if err != nil {
		return nil, err
	}
	var list []Record
	for _, r := range sorted(records) {
		list = append(list, *r)
	}
	return list, nil
}
