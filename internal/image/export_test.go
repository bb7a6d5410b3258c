package image

import (
	"io"
	"testing"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
	digest "github.com/opencontainers/go-digest"
)

// ForgeIndex packs an index of a gzip layer with true checkpoints and whatever entries.
func ForgeIndex(t testing.TB, blob []byte, diffID digest.Digest, entries ...*estargz.Entry) []byte {
	t.Helper()
	place := indexPlace{layer: t.TempDir() + "/x.idx", spans: t.TempDir() + "/x.zran"}
	layer := indexFor{blob: estargz.Sum(blob), size: int64(len(blob)), diffID: diffID.String()}
	b := layerindex.NewBuilder(layerindex.LayerInfo{Digest: layer.blob, BlobSize: layer.size, Format: layerindex.FormatSpans}, layerindex.DefaultLimits())
	for _, e := range entries {
		if err := b.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.WriteFile(place.layer); err != nil {
		t.Fatal(err)
	}
	writeCheckpoints(t, place.spans, blob)
	return packed(t, place, layer)
}

// LimitProfiles has the catalog keep fewer profiles.
func (c *Catalog) LimitProfiles(n int) { c.maxProfiles = n }

// EndStartsAfter has recordings end when nothing new was read for so long.
func (c *Catalog) EndStartsAfter(idle time.Duration) { c.recording.Idle = idle }

// PackIndex packs the index made of these two files.
func PackIndex(f io.WriteSeeker, layer, spans, diffID string) error {
	return packIndex(f, indexPlace{layer: layer, spans: spans}, diffID)
}

// Cancel has the background's work end, and what waits in it go on.
func (c *Catalog) Cancel() { c.cancel() }
