package layerstore

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// compressionOf are the numbers containers/storage has for compressions.
func compressionOf(mediaType string) int {
	const none, gzip, zstd = 0, 2, 4
	switch {
	case strings.HasSuffix(mediaType, "zstd"):
		return zstd
	case strings.HasSuffix(mediaType, "gzip"):
		return gzip
	}
	return none
}

// info is a layer as containers/storage describes it to itself.
type info struct {
	CompressedDigest   string         `json:"compressed-diff-digest"`
	CompressedSize     int64          `json:"compressed-size"`
	UncompressedDigest string         `json:"diff-digest"`
	UncompressedSize   int64          `json:"diff-size"`
	Compression        int            `json:"compression"`
	TOCDigest          string         `json:"toc-digest,omitempty"`
	ReadOnly           bool           `json:"readonly"`
	Flags              map[string]any `json:"flags,omitempty"`
}

// Info is the text of the file info. The size of the tar has to be a number; where
// the manifest does not tell it, it is that of the blob.
func (r *Record) Info() ([]byte, error) {
	size := r.Layer.Uncompressed
	if size <= 0 {
		size = r.Layer.Size
	}
	text, err := json.Marshal(info{
		CompressedDigest: r.Layer.Digest, CompressedSize: r.Layer.Size,
		UncompressedDigest: r.Layer.DiffID, UncompressedSize: size,
		Compression: compressionOf(r.Layer.MediaType), TOCDigest: r.Layer.TOC, ReadOnly: true,
		Flags: map[string]any{"expected-layer-diffid": r.Layer.DiffID},
	})
	if err != nil {
		return nil, fmt.Errorf("description of layer %s: %w", r.Layer.Digest, err)
	}
	return text, nil
}

// decodeRef gives the reference that the name of a directory stands for.
func decodeRef(name string) (ref string, ok bool) {
	raw, err := base64.StdEncoding.DecodeString(name)
	if err != nil || len(raw) == 0 || len(raw) > maxRef || !utf8.Valid(raw) || strings.ContainsRune(string(raw), 0) {
		return "", false
	}
	return string(raw), true
}

// encodeRef is the name of the directory of an image.
func encodeRef(ref string) string { return base64.StdEncoding.EncodeToString([]byte(ref)) }
