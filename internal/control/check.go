package control

import (
	"context"
	"net/http"
)

// ImageCheck names an image that is about to be pulled.
type ImageCheck struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest,omitempty"` // of its manifest or image index
}

// CheckService is asked about images before they are pulled.
type CheckService interface {
	// CheckImage fails with kind Corrupt when the image would get files of another one
	// whose layers claim the same chain IDs and are not what they claim. Layers that
	// have to be read whole to know are.
	CheckImage(ctx context.Context, r ImageCheck) error
}

func handleChecks(mux *http.ServeMux, s CheckService) {
	mux.HandleFunc("POST /v1/checks", func(w http.ResponseWriter, r *http.Request) {
		var c ImageCheck
		if decode(w, r, &c) {
			reply(w, nil, s.CheckImage(r.Context(), c))
		}
	})
}

// CheckImage calls [CheckService.CheckImage].
func (c *Client) CheckImage(ctx context.Context, r ImageCheck) error {
	return c.call(ctx, http.MethodPost, "/v1/checks", r, nil)
}
