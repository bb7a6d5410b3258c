package profile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nineply/nineply/internal/fserr"
)

// The limits of a list of records.
const (
	maxRecords    = 1 << 20
	maxRecordLine = 64 << 10 // bytes
)

// Record is one file that was read, as stargz-snapshotter's ctr-remote writes and
// reads it: one JSON object on a line, in the order of first accesses.
type Record struct {
	Path           string `json:"path"` // without a slash in front
	ManifestDigest string `json:"manifestDigest,omitempty"`
	LayerIndex     *int   `json:"layerIndex,omitempty"` // in the manifest, bottom first; nil: not known
}

// WriteRecords writes records, one on each line.
func WriteRecords(w io.Writer, records []Record) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, r := range records {
		if err := enc.Encode(r); err != nil {
			return fmt.Errorf("write records: %w", err)
		}
	}
	return nil
}

// ReadRecords reads what [WriteRecords] and ctr-remote's --record-out write. Paths
// lose the slash in front; lines that are empty are skipped.
func ReadRecords(r io.Reader) ([]Record, error) {
	var records []Record
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxRecordLine)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var rec Record
		if err := json.Unmarshal(line, &rec); err != nil {
			return nil, fserr.Newf(fserr.Corrupt, "read", "records", "line %d: %w", n, err)
		}
		if rec.Path = strings.TrimLeft(rec.Path, "/"); rec.Path == "" {
			return nil, fserr.Newf(fserr.Corrupt, "read", "records", "line %d: no path", n)
		}
		if rec.LayerIndex != nil && (*rec.LayerIndex < 0 || *rec.LayerIndex >= MaxLayers) {
			return nil, fserr.Newf(fserr.Corrupt, "read", "records", "line %d: layer %d", n, *rec.LayerIndex)
		}
		if len(records) == maxRecords {
			return nil, fserr.Newf(fserr.TooLarge, "read", "records", "more than %d lines", maxRecords)
		}
		records = append(records, rec)
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fserr.Newf(fserr.TooLarge, "read", "records", "a line of more than %d bytes", maxRecordLine)
	} else if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	return records, nil
}
