package estargz

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/nineply/nineply/internal/fserr"
)

// tarReader reads tar entries, with global headers applied and the format's own
// files left out.
type tarReader struct {
	tr     *tar.Reader
	global map[string]string // never changed, only replaced

	// Of the last entry.
	sparse  bool
	changed bool // its own header does not say what it is
	odd     bool // its header has numbers that a TOC leaves out
}

// next gives the next entry, or [io.EOF].
func (t *tarReader) next() (*tar.Header, error) {
	for {
		h, err := t.step()
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeXGlobalHeader && !reserved(cleanName(h.Name)) {
			return h, nil
		}
	}
}

// step gives the next entry whatever it is, global headers included, or [io.EOF].
func (t *tarReader) step() (*tar.Header, error) {
	h, err := t.tr.Next()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, readError(err)
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		t.global, err = mergeGlobal(t.global, h.PAXRecords)
		return h, err
	}
	t.sparse = isSparse(h)
	t.changed = t.sparse || h.Typeflag == tar.TypeCont
	size := h.Size
	plainHeader(h)
	// Readers of tar-split data hold the TOC against such sizes and numbers, which
	// mean nothing.
	t.odd = h.Size != size || !isUint32(h.Devmajor) || !isUint32(h.Devminor)
	if err := t.applyGlobal(h); err != nil {
		return nil, fmt.Errorf("entry %.100q: %w", h.Name, err)
	}
	return h, nil
}

func isUint32(v int64) bool { return v >= 0 && v <= math.MaxUint32 }

// applyGlobal adds the records of a PAX global header to an entry that does not
// have them itself.
func (t *tarReader) applyGlobal(h *tar.Header) error {
	for _, k := range slices.Sorted(maps.Keys(t.global)) {
		if _, own := h.PAXRecords[k]; own {
			continue
		}
		applied, err := applyRecord(h, k, t.global[k])
		if err != nil {
			return err
		}
		t.changed = t.changed || applied
	}
	return nil
}

// readError gives errors of the tar format a kind, and lets others pass.
func readError(err error) error {
	// Package tar gives a name to few of its errors, and the same beginning to all.
	if errors.Is(err, io.ErrUnexpectedEOF) || strings.HasPrefix(err.Error(), "archive/tar: ") {
		return fserr.New(fserr.Corrupt, "read tar", "", err)
	}
	return fmt.Errorf("read tar: %w", err)
}

// mergeGlobal adds a global header's records; an empty value takes one away.
func mergeGlobal(old, records map[string]string) (map[string]string, error) {
	if err := checkGlobal(records); err != nil {
		return nil, err
	}
	merged := make(map[string]string, len(old)+len(records))
	for _, m := range []map[string]string{old, records} {
		for k, v := range m {
			merged[k] = v
			if v == "" {
				delete(merged, k)
			}
		}
	}
	return merged, nil
}
