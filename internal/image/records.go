package image

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Records is the durable key-value store that the catalog keeps its records in.
type Records interface {
	Get(ctx context.Context, key string) ([]byte, error) // fserr.NotExist if absent
	Put(ctx context.Context, key string, val []byte) error
	Delete(ctx context.Context, key string) error
	Walk(ctx context.Context, prefix string, fn func(key string, val []byte) error) error
}

// The keys of the records, each followed by what it is about.
const (
	keyRef   = "ref/"   // normalised reference → manifest digest
	keyImage = "image/" // manifest digest → imageRecord
	keyLayer = "layer/" // layerID → layerRecord
	keyChain = "chain/" // chain ID → chainRecord

	keyFill      = "fill/"      // layerID → verdict
	keyFillState = "fillstate/" // layerID → checkpoint
)

// imageRecord is one platform's manifest, as far as it is needed again.
type imageRecord struct {
	Ref      string               `json:"ref"`
	Manifest string               `json:"manifest"`
	Layers   []ocispec.Descriptor `json:"layers"`         // bottom first
	DiffIDs  []string             `json:"diffIDs"`        // as the config claims
	SOCI     string               `json:"soci,omitempty"` // digest of the SOCI index that the image index names
	// Named says that the image was found by its name or through an image index, which
	// say more of it than the digest of its manifest alone.
	Named bool `json:"named,omitempty"`
}

// layerRecord says how a layer's index was made and where its bytes are.
type layerRecord struct {
	Ref    string             `json:"ref"` // an image that has it
	Desc   ocispec.Descriptor `json:"desc"`
	Format string             `json:"format"`
	Reason string             `json:"reason,omitempty"` // why it is not lazy
	DiffID string             `json:"diffID,omitempty"` // computed, not claimed
	Origin string             `json:"origin,omitempty"` // what the index was made from, if not from the blob alone
	// By says how the index beside the image was come by, and Index which one it is.
	By    string `json:"by,omitempty"`
	Index string `json:"index,omitempty"`
	// Refused says why the index must not be used any more.
	Refused string `json:"refused,omitempty"`
	// Manifest and SOCI are those of the image that the index was made for.
	Manifest string `json:"manifest,omitempty"`
	SOCI     string `json:"soci,omitempty"`
}

// chainRecord is one layer on top of a chain.
type chainRecord struct {
	Layer  string `json:"layer"`           // blob digest
	Vouch  string `json:"vouch,omitempty"` // of the layerID
	Parent string `json:"parent,omitempty"`
	DiffID string `json:"diffID,omitempty"` // that the image claims of the layer
	// State is FillVerified or FillPoisoned once all of the layer was read, and Reason
	// says what is wrong.
	State  string `json:"state,omitempty"`
	Reason string `json:"reason,omitempty"`
}

func (c *Catalog) load(ctx context.Context, key string, into any) error {
	text, err := c.records.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("record %s: %w", key, err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fserr.New(fserr.Corrupt, "record", key, err)
	}
	return nil
}

func (c *Catalog) save(ctx context.Context, key string, val any) error {
	text, err := json.Marshal(val)
	if err != nil {
		return fmt.Errorf("record %s: %w", key, err)
	}
	if err := c.records.Put(ctx, key, text); err != nil {
		return fmt.Errorf("record %s: %w", key, err)
	}
	return nil
}

// parseDigest accepts the digests that a path or a key may be made of.
func parseDigest(what, s string) (estargz.Digest, error) {
	d, err := estargz.ParseDigest(s)
	if err != nil {
		return d, fmt.Errorf("%s: %w", what, err)
	}
	return d, nil
}
