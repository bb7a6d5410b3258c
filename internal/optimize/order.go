package optimize

import (
	"bytes"
	"path"
	"strings"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/profile"
	"github.com/nineply/nineply/internal/source"
)

// Order says which files come first in the layers of an image.
type Order struct {
	records []profile.Record
	images  map[string]bool // manifest digests that records are for
}

// NewOrder makes an order of records: the first comes first.
func NewOrder(records []profile.Record) *Order {
	o := &Order{records: records, images: map[string]bool{}}
	for i := range records {
		o.images[records[i].ManifestDigest] = true
	}
	return o
}

// Names reports whether records are for this very image, rather than for any.
func (o *Order) Names(img *source.Image) bool { return o.images[img.Digest.String()] }

// Layer gives the names of the files to come first in a layer of an image, by its
// number in the manifest. Records that are for the image count for the layer they
// name. An image that no record is for, as one of another platform, has the same
// names in every layer.
func (o *Order) Layer(img *source.Image, layer int) []string {
	var names []string
	seen := map[string]bool{}
	own := o.Names(img)
	for i := range o.records {
		r := &o.records[i]
		switch {
		case own && r.ManifestDigest != "" && r.ManifestDigest != img.Digest.String():
			continue
		case (own || r.ManifestDigest == "") && r.LayerIndex != nil && *r.LayerIndex != layer:
			continue
		}
		if name := strings.TrimPrefix(path.Clean("/"+r.Path), "/"); name != "" && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// ReadList reads a list of files: JSON lines as ctr-remote --record-out and
// "nineply profile export --format records" write them, or one path on each line.
func ReadList(data []byte) ([]profile.Record, error) {
	if profile.IsEncoded(data) {
		return nil, fserr.Newf(fserr.Invalid, "read", "list", "it is a profile, which names no files: export it with --format records, or use \"nineply optimize --profile\"")
	}
	if text := bytes.TrimSpace(data); len(text) > 0 && text[0] == '{' {
		return profile.ReadRecords(bytes.NewReader(text))
	}
	var records []profile.Record
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" {
			records = append(records, profile.Record{Path: line})
		}
	}
	return records, nil
}
