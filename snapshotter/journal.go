package snapshotter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

// journal records, in files, what the Backend was or is about to be asked for.
// An entry is made before the call and removed after its undoing, so entries
// cover at least what is there.
type journal struct {
	chains string // directory: a file per chain the Backend may have a reference for
	mounts string // directory: an empty file per chain that may be mounted
}

// recordVersion is that of the chain files.
const recordVersion = 1

// maxRecord bounds a chain file; two labels of 4096 bytes and a few digests fit.
const maxRecord = 64 << 10

type chainRecord struct {
	Version int   `json:"version"`
	Layer   Layer `json:"layer"`
}

func openJournal(root string) (journal, error) {
	j := journal{chains: filepath.Join(root, "chains"), mounts: filepath.Join(root, "mounts")}
	for _, dir := range []string{j.chains, j.mounts} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return journal{}, fmt.Errorf("journal directory: %w", err)
		}
		if err := removeTemporaries(dir); err != nil {
			return journal{}, err
		}
	}
	return j, nil
}

// removeTemporaries deletes files that an atomic write left when its process was
// killed.
func removeTemporaries(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading the journal: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("removing a temporary file: %w", err)
		}
	}
	return nil
}

// fileName turns a chain key, a digest, into a name without a colon.
func fileName(chain string) string { return strings.Replace(chain, ":", "-", 1) }

// chainOf is the inverse of fileName; ok is false for foreign files.
func chainOf(name string) (chain string, ok bool) {
	chain = strings.Replace(name, "-", ":", 1)
	return chain, isSHA256(chain)
}

// putChain records, durably, that the Backend is about to get l.
func (j journal) putChain(l Layer) error {
	data, err := json.Marshal(chainRecord{Version: recordVersion, Layer: l})
	if err != nil {
		return fmt.Errorf("recording chain %s: %w", l.ChainID, err)
	}
	if err := renameio.WriteFile(filepath.Join(j.chains, fileName(l.ChainID)), data, 0o600); err != nil {
		return fmt.Errorf("recording chain %s: %w", l.ChainID, err)
	}
	return syncDir(j.chains)
}

// layer gives back what putChain recorded.
func (j journal) layer(chain string) (Layer, error) {
	f, err := os.Open(filepath.Join(j.chains, fileName(chain)))
	if err != nil {
		return Layer{}, fmt.Errorf("record of chain %s: %w", chain, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return Layer{}, fmt.Errorf("record of chain %s: %w", chain, err)
	}
	var rec chainRecord
	if err := json.Unmarshal(data, &rec); err != nil {
		return Layer{}, fmt.Errorf("record of chain %s: %w", chain, err)
	}
	if rec.Version != recordVersion || rec.Layer.ChainID != chain {
		return Layer{}, fmt.Errorf("record of chain %s: version %d for chain %q", chain, rec.Version, rec.Layer.ChainID)
	}
	return rec.Layer, nil
}

func (j journal) dropChain(chain string) error { return removeEntry(j.chains, chain) }

func (j journal) listChains() ([]string, error) { return listEntries(j.chains) }

// markMount records that chain is about to be mounted. It need not survive a
// power loss, as mounts do not.
func (j journal) markMount(chain string) error {
	f, err := os.OpenFile(filepath.Join(j.mounts, fileName(chain)), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("recording the mount of chain %s: %w", chain, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("recording the mount of chain %s: %w", chain, err)
	}
	return nil
}

func (j journal) mountMarked(chain string) (bool, error) {
	_, err := os.Lstat(filepath.Join(j.mounts, fileName(chain)))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("record of the mount of chain %s: %w", chain, err)
	}
	return true, nil
}

func (j journal) dropMount(chain string) error { return removeEntry(j.mounts, chain) }

func (j journal) listMounts() ([]string, error) { return listEntries(j.mounts) }

func removeEntry(dir, chain string) error {
	if err := os.Remove(filepath.Join(dir, fileName(chain))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("dropping the record of chain %s: %w", chain, err)
	}
	return nil
}

func listEntries(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	chains := make([]string, 0, len(entries))
	for _, e := range entries {
		if chain, ok := chainOf(e.Name()); ok {
			chains = append(chains, chain)
		}
	}
	return chains, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing a directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}
