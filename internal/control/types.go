package control

import (
	"context"
	"time"
)

// Layer asks the daemon to make one layer of an image servable.
type Layer struct {
	Ref            string            `json:"ref"`                      // image reference the layer is pulled by
	Digest         string            `json:"digest"`                   // of the blob
	ManifestDigest string            `json:"manifestDigest,omitempty"` // of the image's manifest, when known
	ChainID        string            `json:"chainID"`                  // of the chain that ends in this layer
	Parent         string            `json:"parent,omitempty"`         // chain ID of the layers below
	DiffID         string            `json:"diffID,omitempty"`         // of the layer, where the chain ID proves that it is claimed
	Labels         map[string]string `json:"labels,omitempty"`         // untrusted hints of the image's author
}

// LayerStatus says how a layer is served.
type LayerStatus struct {
	Digest string `json:"digest"`
	Lazy   bool   `json:"lazy"`
	Reason string `json:"reason,omitempty"` // why it is not lazy, or only by an index that is not its own
	Format string `json:"format"`
	Origin string `json:"origin,omitempty"` // of its index, if not the blob itself
	Size   int64  `json:"size"`             // of the blob, bytes
	Files  int64  `json:"files"`            // inodes
	// Fetched counts blob bytes fetched since the daemon started.
	Fetched int64 `json:"fetched"`
	// LocalChunks of Chunks are known to be in the cache.
	LocalChunks int `json:"localChunks"`
	Chunks      int `json:"chunks"`
	// State says how far the background is: waiting, filling, verified, poisoned,
	// failed, or "" where nothing is done. Done is how much of the blob was read when
	// it is filling, bytes.
	State       string `json:"state,omitempty"`
	StateReason string `json:"stateReason,omitempty"`
	Done        int64  `json:"done,omitempty"`
}

// MountRequest asks for the tree of an attach name to be mounted on a directory.
type MountRequest struct {
	Aname  string `json:"aname"`  // image/<ref or digest>, chain/<chain ID>, layer/<digest>
	Target string `json:"target"` // absolute path of an existing directory
	Mode   string `json:"mode,omitempty"`
}

// Mount is one mount that the keeper holds.
type Mount struct {
	Aname      string `json:"aname"`
	Target     string `json:"target"`
	Mode       string `json:"mode"` // v9fs or fuse
	State      string `json:"state"`
	Requests   uint64 `json:"requests"`
	Bytes      uint64 `json:"bytes"`
	Reconnects uint64 `json:"reconnects"`
}

// CacheStatus describes the chunk store.
type CacheStatus struct {
	Bytes    int64  `json:"bytes"`
	MaxBytes int64  `json:"maxBytes"`
	Chunks   int64  `json:"chunks"`
	Evicted  int64  `json:"evictedBytes"`
	Corrupt  uint64 `json:"corrupt"`
}

// FetchStatus describes what came from sources since the daemon started.
type FetchStatus struct {
	Requests map[string]int64 `json:"requests"` // by priority
	Bytes    map[string]int64 `json:"bytes"`    // blob bytes by priority
	Whole    int64            `json:"wholeBytes"`
	TOC      int64            `json:"tocBytes"`
	Hits     int64            `json:"hits"`
	Misses   int64            `json:"misses"`
	Corrupt  int64            `json:"corrupt"`
	Queued   int              `json:"queued"`
	Active   int              `json:"active"`
}

// Tree is one merged tree being served.
type Tree struct {
	Name   string   `json:"name"`
	Layers []string `json:"layers"` // blob digests, bottom first
	Files  int      `json:"files"`
	Users  int      `json:"users"` // attaches
	// Image is the digest of the manifest that it was attached by last, if known.
	Image   string   `json:"image,omitempty"`
	Account *Account `json:"account,omitempty"`
}

// Status is the answer to "what is this daemon doing".
type Status struct {
	Version string        `json:"version"`
	PID     int           `json:"pid"`
	Started time.Time     `json:"started"`
	Uptime  float64       `json:"uptimeSeconds"`
	Cache   CacheStatus   `json:"cache"`
	Fetch   FetchStatus   `json:"fetch"`
	Trees   []Tree        `json:"trees"`
	Layers  []LayerStatus `json:"layers"`
	Mounts  []Mount       `json:"mounts"`
	// KeeperError says why Mounts is not known.
	KeeperError string `json:"keeperError,omitempty"`
	// Sessions counts 9P connections now.
	Sessions int64 `json:"sessions"`
}

// Service is what the daemon offers. All methods are safe for concurrent use
// and may be repeated.
type Service interface {
	// AddLayer returns once the layer can be served: its index is known, and
	// a format that cannot be read lazily has been fetched whole.
	AddLayer(ctx context.Context, l Layer) (LayerStatus, error)
	// RemoveChain forgets a chain. It is no error if there is none.
	RemoveChain(ctx context.Context, chainID string) error
	// Mount makes a kernel mount through the keeper; repeating it is free.
	Mount(ctx context.Context, m MountRequest) error
	// Unmount ends a mount. It is no error if there is none.
	Unmount(ctx context.Context, target string) error
	// Status describes the daemon.
	Status(ctx context.Context) (Status, error)

	StatService
	CheckService
	ImageService
	IndexService
	CacheService
	ProfileService
	EventService
}
