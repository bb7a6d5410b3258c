package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"
)

// stateVersion is the format of the state file.
const stateVersion = 1

// maxState bounds the state file, in bytes.
const maxState = 16 << 20

type stateFile struct {
	Version int            `json:"version"`
	Mounts  []MountRequest `json:"mounts"`
}

// loadState reads what a keeper had mounted. A missing file is an empty one.
func loadState(path string) ([]MountRequest, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	if info.Size() > maxState {
		return nil, fmt.Errorf("state file %s has %d bytes", path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	return parseState(b)
}

func parseState(b []byte) ([]MountRequest, error) {
	var st stateFile
	if err := json.Unmarshal(b, &st); err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	if st.Version != stateVersion {
		return nil, fmt.Errorf("state file has version %d, want %d", st.Version, stateVersion)
	}
	for i := range st.Mounts {
		if err := st.Mounts[i].check(); err != nil {
			return nil, fmt.Errorf("state file: mount %d: %w", i, err)
		}
	}
	return st.Mounts, nil
}

// saveState replaces the file in one step.
func saveState(path string, mounts []MountRequest) error {
	b, err := json.MarshalIndent(stateFile{Version: stateVersion, Mounts: mounts}, "", "\t")
	if err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	if err := renameio.WriteFile(path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	return nil
}
