package control

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// maxProfile bounds a request that brings a profile or a list of files, bytes.
const maxProfile = 16 << 20

// The formats that profiles are exported in and imported from.
const (
	ProfileFormat = "profile" // the file of a profile, without loss
	RecordsFormat = "records" // JSON lines of files in order, as stargz-snapshotter's tools have them
)

// Profile describes the access profile of one image.
type Profile struct {
	Manifest string    `json:"manifest"` // digest of the image's manifest
	Ref      string    `json:"ref"`
	Runs     int       `json:"runs"`
	Chunks   int       `json:"chunks"`
	Bytes    int64     `json:"bytes"` // of those chunks, decompressed
	Size     int64     `json:"size"`  // of the profile, bytes
	Changed  time.Time `json:"changed"`
	Origin   string    `json:"origin,omitempty"` // if it was not recorded here
}

// ProfileFile is a file of an image that its profile tells of.
type ProfileFile struct {
	Path   string        `json:"path"`
	Layer  int           `json:"layer"` // number in the manifest, bottom first
	Chunks int           `json:"chunks"`
	Bytes  int64         `json:"bytes"` // of those chunks, decompressed
	At     time.Duration `json:"at"`    // of the first read, nanoseconds
	Runs   int           `json:"runs"`  // of those remembered, that read it
	Usual  bool          `json:"usual"` // it is fetched in advance
}

// ProfileDetail is a profile with its files in the order of their first reads.
type ProfileDetail struct {
	Profile
	Files []ProfileFile `json:"files"`
}

// ProfileData is a profile in one of the formats.
type ProfileData struct {
	Name   string `json:"name"` // of the image: reference or manifest digest; the file of a profile says that itself
	Format string `json:"format"`
	Data   []byte `json:"data"`
}

// ProfileRequest names a profile that lies beside an image.
type ProfileRequest struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest,omitempty"` // "": the newest that refers to the image
}

// PublishedProfile describes a profile that was pushed.
type PublishedProfile struct {
	Ref      string `json:"ref"`
	Manifest string `json:"manifest"` // digest of the image's manifest
	Digest   string `json:"digest"`   // of the profile's
	Size     int64  `json:"size"`     // bytes
}

// ProfileService is what the daemon offers for access profiles. An image is named
// by its reference or its manifest digest.
type ProfileService interface {
	// Profiles lists the profiles, those changed last first.
	Profiles(ctx context.Context) ([]Profile, error)
	// Profile tells what an image's profile says. The indexes of its layers are
	// opened for that.
	Profile(ctx context.Context, name string) (ProfileDetail, error)
	// ExportProfile gives a profile in a format.
	ExportProfile(ctx context.Context, name, format string) (ProfileData, error)
	// ImportProfile takes over a profile, in the place of the one that is there.
	ImportProfile(ctx context.Context, d ProfileData) (Profile, error)
	// RemoveProfile removes a profile. What was pushed is not touched.
	RemoveProfile(ctx context.Context, name string) error
	// PushProfile pushes the profile of an image beside it.
	PushProfile(ctx context.Context, ref string) (PublishedProfile, error)
	// PullProfile takes over a profile that lies beside an image, in the place of
	// the one that is there.
	PullProfile(ctx context.Context, r ProfileRequest) (Profile, error)
}

func handleProfiles(mux *http.ServeMux, s ProfileService) {
	name := func(r *http.Request) string { return r.URL.Query().Get("name") }
	mux.HandleFunc("GET /v1/profiles", func(w http.ResponseWriter, r *http.Request) {
		out, err := s.Profiles(r.Context())
		reply(w, out, err)
	})
	mux.HandleFunc("GET /v1/profiles/show", func(w http.ResponseWriter, r *http.Request) {
		out, err := s.Profile(r.Context(), name(r))
		reply(w, out, err)
	})
	mux.HandleFunc("GET /v1/profiles/export", func(w http.ResponseWriter, r *http.Request) {
		out, err := s.ExportProfile(r.Context(), name(r), r.URL.Query().Get("format"))
		reply(w, out, err)
	})
	mux.HandleFunc("POST /v1/profiles/import", func(w http.ResponseWriter, r *http.Request) {
		var in ProfileData
		if !decodeUpTo(w, r, &in, maxProfile) {
			return
		}
		out, err := s.ImportProfile(r.Context(), in)
		reply(w, out, err)
	})
	mux.HandleFunc("DELETE /v1/profiles", func(w http.ResponseWriter, r *http.Request) {
		reply(w, nil, s.RemoveProfile(r.Context(), name(r)))
	})
	mux.HandleFunc("POST /v1/profiles/push", func(w http.ResponseWriter, r *http.Request) {
		var in ProfileRequest
		if !decode(w, r, &in) {
			return
		}
		out, err := s.PushProfile(r.Context(), in.Ref)
		reply(w, out, err)
	})
	mux.HandleFunc("POST /v1/profiles/pull", func(w http.ResponseWriter, r *http.Request) {
		var in ProfileRequest
		if !decode(w, r, &in) {
			return
		}
		out, err := s.PullProfile(r.Context(), in)
		reply(w, out, err)
	})
}

// Profiles calls [ProfileService.Profiles].
func (c *Client) Profiles(ctx context.Context) ([]Profile, error) {
	var out []Profile
	err := c.call(ctx, http.MethodGet, "/v1/profiles", nil, &out)
	return out, err
}

// Profile calls [ProfileService.Profile].
func (c *Client) Profile(ctx context.Context, name string) (ProfileDetail, error) {
	var out ProfileDetail
	err := c.call(ctx, http.MethodGet, "/v1/profiles/show?name="+url.QueryEscape(name), nil, &out)
	return out, err
}

// ExportProfile calls [ProfileService.ExportProfile].
func (c *Client) ExportProfile(ctx context.Context, name, format string) (ProfileData, error) {
	var out ProfileData
	err := c.call(ctx, http.MethodGet, "/v1/profiles/export?"+url.Values{"name": {name}, "format": {format}}.Encode(), nil, &out)
	return out, err
}

// ImportProfile calls [ProfileService.ImportProfile].
func (c *Client) ImportProfile(ctx context.Context, d ProfileData) (Profile, error) {
	var out Profile
	err := c.call(ctx, http.MethodPost, "/v1/profiles/import", d, &out)
	return out, err
}

// RemoveProfile calls [ProfileService.RemoveProfile].
func (c *Client) RemoveProfile(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/profiles?name="+url.QueryEscape(name), nil, nil)
}

// PushProfile calls [ProfileService.PushProfile].
func (c *Client) PushProfile(ctx context.Context, ref string) (PublishedProfile, error) {
	var out PublishedProfile
	err := c.call(ctx, http.MethodPost, "/v1/profiles/push", ProfileRequest{Ref: ref}, &out)
	return out, err
}

// PullProfile calls [ProfileService.PullProfile].
func (c *Client) PullProfile(ctx context.Context, r ProfileRequest) (Profile, error) {
	var out Profile
	err := c.call(ctx, http.MethodPost, "/v1/profiles/pull", r, &out)
	return out, err
}
