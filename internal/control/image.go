package control

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/nineply/nineply/internal/fserr"
)

// MaxBlobRead bounds one read of a blob, bytes.
const MaxBlobRead = 4 << 20

// Image lists the layers of an image, bottom first, as its manifest and config claim
// them.
type Image struct {
	Ref      string       `json:"ref"` // normalised
	Manifest string       `json:"manifest"`
	Layers   []ImageLayer `json:"layers"`
}

// ImageLayer is one layer of an image, as it is claimed to be.
type ImageLayer struct {
	Digest       string `json:"digest"` // of the blob
	MediaType    string `json:"mediaType"`
	Size         int64  `json:"size"` // of the blob, bytes
	DiffID       string `json:"diffID"`
	TOC          string `json:"toc,omitempty"`          // digest of the TOC that the manifest names
	Uncompressed int64  `json:"uncompressed,omitempty"` // size of the tar, bytes, if the manifest tells it
}

// BlobRead names a part of a layer's blob.
type BlobRead struct {
	Manifest string // digest of a manifest that was described before
	Layer    string // digest of the blob
	Offset   int64
	Size     int // at most MaxBlobRead
}

// ImageService describes images, and gives the blobs of their layers.
type ImageService interface {
	// Describe lists the layers of the image that name, a reference or the digest of
	// a manifest seen before, stands for now.
	Describe(ctx context.Context, name string) (Image, error)
	// ReadBlob reads from a blob as the registry has it: nothing is kept, nothing
	// verified. The answer is shorter at the end of the blob.
	ReadBlob(ctx context.Context, r BlobRead) ([]byte, error)
}

func handleImages(mux *http.ServeMux, s ImageService) {
	mux.HandleFunc("GET /v1/image", func(w http.ResponseWriter, r *http.Request) {
		im, err := s.Describe(r.Context(), r.URL.Query().Get("name"))
		reply(w, im, err)
	})
	mux.HandleFunc("GET /v1/blob", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		off, err1 := strconv.ParseInt(q.Get("offset"), 10, 64)
		size, err2 := strconv.Atoi(q.Get("size"))
		if err1 != nil || err2 != nil || off < 0 || size < 0 || size > MaxBlobRead {
			reply(w, nil, fserr.Newf(fserr.Invalid, "request", "", "offset %q, size %q", q.Get("offset"), q.Get("size")))
			return
		}
		data, err := s.ReadBlob(r.Context(), BlobRead{Manifest: q.Get("manifest"), Layer: q.Get("layer"), Offset: off, Size: size})
		if data == nil {
			data = []byte{}
		}
		reply(w, data, err) // base64 in JSON: few ask, and errors keep their kinds
	})
}

// Describe calls [ImageService.Describe].
func (c *Client) Describe(ctx context.Context, name string) (Image, error) {
	var im Image
	err := c.call(ctx, http.MethodGet, "/v1/image?name="+url.QueryEscape(name), nil, &im)
	return im, err
}

// ReadBlob calls [ImageService.ReadBlob].
func (c *Client) ReadBlob(ctx context.Context, r BlobRead) (data []byte, err error) {
	path := fmt.Sprintf("/v1/blob?manifest=%s&layer=%s&offset=%d&size=%d", url.QueryEscape(r.Manifest), url.QueryEscape(r.Layer), r.Offset, r.Size)
	err = c.call(ctx, http.MethodGet, path, nil, &data)
	return data, err
}
