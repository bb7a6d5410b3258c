package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
)

// blobPath is the file of a blob in an OCI layout.
func blobPath(layout string, d any) string {
	parsed := digest.Digest(fmt.Sprint(d))
	return filepath.Join(layout, "blobs", parsed.Algorithm().String(), parsed.Encoded())
}

func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// writeBlob adds a JSON document to a layout.
func writeBlob(layout string, v any) (string, int, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", 0, err
	}
	d := digest.FromBytes(text)
	return d.String(), len(text), os.WriteFile(blobPath(layout, d), text, 0o600)
}
