package control

import (
	"context"
	"net/http"
	"net/url"
)

// IndexRequest asks for an index of an image to be taken over.
type IndexRequest struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest,omitempty"` // of the index; "": the newest that refers to the image
}

// PublishedIndex describes an index that lies in a repository beside its image.
type PublishedIndex struct {
	Ref      string                `json:"ref"`
	Manifest string                `json:"manifest"` // digest of the image's manifest
	Digest   string                `json:"digest"`   // of the index
	Size     int64                 `json:"size"`     // of all its parts, bytes
	Layers   []PublishedIndexLayer `json:"layers"`
}

// PublishedIndexLayer says what an index has of one layer.
type PublishedIndexLayer struct {
	Digest string `json:"digest"` // of the layer
	Size   int64  `json:"size"`   // of its index, bytes; 0 if there is none
	Reason string `json:"reason,omitempty"`
}

// Index describes the index of one layer that the daemon has.
type Index struct {
	Layer   string `json:"layer"` // digest of the blob
	Ref     string `json:"ref"`   // an image that has the layer
	Format  string `json:"format"`
	Origin  string `json:"origin"`
	Size    int64  `json:"size"` // of the index, bytes
	Blob    int64  `json:"blob"` // of the layer, bytes
	Refused string `json:"refused,omitempty"`
}

// RemovedIndexes says how many were removed.
type RemovedIndexes struct {
	Removed int `json:"removed"`
}

// IndexService is what the daemon offers for indexes of layers that have none
// inside.
type IndexService interface {
	// PushIndex pushes the index of an image beside it. Layers that need one and
	// have none are read whole first.
	PushIndex(ctx context.Context, ref string) (PublishedIndex, error)
	// PullIndex takes over an index that lies beside an image.
	PullIndex(ctx context.Context, r IndexRequest) (PublishedIndex, error)
	// Indexes lists the indexes of an image's layers, or all if name is "".
	Indexes(ctx context.Context, name string) ([]Index, error)
	// RemoveIndexes removes the indexes of an image, or of a layer by its digest.
	RemoveIndexes(ctx context.Context, name string) (RemovedIndexes, error)
}

func handleIndexes(mux *http.ServeMux, s IndexService) {
	mux.HandleFunc("POST /v1/indexes/push", func(w http.ResponseWriter, r *http.Request) {
		var in IndexRequest
		if !decode(w, r, &in) {
			return
		}
		out, err := s.PushIndex(r.Context(), in.Ref)
		reply(w, out, err)
	})
	mux.HandleFunc("POST /v1/indexes/pull", func(w http.ResponseWriter, r *http.Request) {
		var in IndexRequest
		if !decode(w, r, &in) {
			return
		}
		out, err := s.PullIndex(r.Context(), in)
		reply(w, out, err)
	})
	mux.HandleFunc("GET /v1/indexes", func(w http.ResponseWriter, r *http.Request) {
		out, err := s.Indexes(r.Context(), r.URL.Query().Get("name"))
		reply(w, out, err)
	})
	mux.HandleFunc("DELETE /v1/indexes", func(w http.ResponseWriter, r *http.Request) {
		out, err := s.RemoveIndexes(r.Context(), r.URL.Query().Get("name"))
		reply(w, out, err)
	})
}

// PushIndex calls [IndexService.PushIndex].
func (c *Client) PushIndex(ctx context.Context, ref string) (PublishedIndex, error) {
	var out PublishedIndex
	err := c.call(ctx, http.MethodPost, "/v1/indexes/push", IndexRequest{Ref: ref}, &out)
	return out, err
}

// PullIndex calls [IndexService.PullIndex].
func (c *Client) PullIndex(ctx context.Context, r IndexRequest) (PublishedIndex, error) {
	var out PublishedIndex
	err := c.call(ctx, http.MethodPost, "/v1/indexes/pull", r, &out)
	return out, err
}

// Indexes calls [IndexService.Indexes].
func (c *Client) Indexes(ctx context.Context, name string) ([]Index, error) {
	var out []Index
	err := c.call(ctx, http.MethodGet, "/v1/indexes?name="+url.QueryEscape(name), nil, &out)
	return out, err
}

// RemoveIndexes calls [IndexService.RemoveIndexes].
func (c *Client) RemoveIndexes(ctx context.Context, name string) (RemovedIndexes, error) {
	var out RemovedIndexes
	err := c.call(ctx, http.MethodDelete, "/v1/indexes?name="+url.QueryEscape(name), nil, &out)
	return out, err
}
