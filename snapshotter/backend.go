package snapshotter

import "context"

// Backend serves layers and mounts chains of them. All methods may be called
// concurrently, must honour ctx, and must be idempotent: after a crash any call
// may be made again. Errors carry an internal/fserr kind.
type Backend interface {
	// AddLayer makes a layer servable, lazily or by fetching it whole, and keeps a
	// reference for its ChainID. All layers below it were added before. The kinds
	// that matter: Unsupported and TooLarge let containerd unpack the layer;
	// Unavailable, Unauthorized and NotExist mean the source failed (see
	// [SourcePolicy]); Corrupt and Permission mean the layer contradicts what the
	// chain ID stands for and must not be used. NotExist is also the kind when
	// Parent is not known (any more): the layers below are then added again.
	AddLayer(ctx context.Context, l Layer) (LayerStatus, error)
	// RemoveChain drops the reference of a chain. A chain that is not known is no
	// error.
	RemoveChain(ctx context.Context, chainID string) error
	// Mount makes the merged tree of a chain visible at target, an absolute path of
	// a directory. It is cheap when the chain is mounted already and gives the same
	// target again. Kind NotExist means the chain is not known (any more).
	Mount(ctx context.Context, chainID string) (target string, err error)
	// Unmount is called when the last user of a chain is gone. A chain that is not
	// mounted is no error.
	Unmount(ctx context.Context, chainID string) error
}

// Layer says what to serve and where it comes from. Every field was validated:
// references and digests have the syntax of such, and nothing here is a URL or a
// credential.
type Layer struct {
	// Ref is the normalised image reference, such as docker.io/library/alpine:3.
	Ref string `json:"ref"`
	// Digest is the digest of the layer's blob.
	Digest string `json:"digest"`
	// ManifestDigest is the digest of the image manifest; empty when the client
	// gave none.
	ManifestDigest string `json:"manifest_digest,omitempty"`
	// MediaType is empty when the client gave none, as containerd does.
	MediaType string `json:"media_type,omitempty"`
	// ChainID identifies the chain that ends in this layer. It is the OCI chain ID
	// where the client uses one, else a digest made from the client's own target
	// name.
	ChainID string `json:"chain_id"`
	// Parent is the ChainID of the layer below; empty for the lowest one.
	Parent string `json:"parent,omitempty"`
	// DiffID is the layer's uncompressed digest as claimed by the image config, set
	// only when ChainID follows from it and Parent.
	DiffID string `json:"diff_id,omitempty"`
	// Labels holds hints of the client: the digests of this and the next layers
	// ([LabelImageLayers]) and the digest of a table of contents ([LabelTOCDigest]).
	Labels map[string]string `json:"labels,omitempty"`
}

// LayerStatus is what became of an added layer.
type LayerStatus struct {
	// Lazy tells that bytes are fetched as they are read.
	Lazy bool
	// Reason says why a layer is not lazy.
	Reason string
	// Size is what the layer occupies when it is whole, in bytes; Files is its
	// number of inodes. containerd reads them once and keeps them.
	Size, Files int64
}
