package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/profile"
	"github.com/nineply/nineply/internal/source"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A published profile is a manifest whose subject is that of the image, with the
// file of the profile as its only layer. Its artifact type and the file's media
// type are profile.MediaType.

const (
	// profileSearch is how long a profile beside an image is looked for. Nothing
	// waits longer for what only saves time.
	profileSearch = 3 * time.Second
	// maxProfileReferrers is how many of them are looked at.
	maxProfileReferrers = 4
)

// PublishedProfile describes a profile that was pushed.
type PublishedProfile struct {
	Ref      string `json:"ref"`
	Manifest string `json:"manifest"` // of the image
	Digest   string `json:"digest"`   // of the profile's manifest
	Size     int64  `json:"size"`     // of the profile, bytes
}

// PushProfile pushes the profile of an image into the image's repository.
func (c *Catalog) PushProfile(ctx context.Context, ref string) (*PublishedProfile, error) {
	rec, err := c.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	p, _, err := c.Profile(ctx, rec.Manifest)
	if err != nil {
		return nil, err
	}
	data, err := profile.Encode(p)
	if err != nil {
		return nil, err
	}
	var desc ocispec.Descriptor
	err = c.publishBeside(ctx, rec, func(p *publisher) (err error) {
		desc, err = pushProfile(ctx, p, data)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &PublishedProfile{Ref: rec.Ref, Manifest: rec.Manifest, Digest: desc.Digest.String(), Size: int64(len(data))}, nil
}

func pushProfile(ctx context.Context, p *publisher, data []byte) (ocispec.Descriptor, error) {
	layer := ocispec.Descriptor{MediaType: profile.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	err := p.pusher.PushBlob(ctx, layer, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		return layer, err
	}
	return p.pushManifest(ctx, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: profile.MediaType,
		Subject: &p.subject, Layers: []ocispec.Descriptor{layer},
		Annotations: map[string]string{ocispec.AnnotationCreated: time.Now().UTC().Format(time.RFC3339)},
	})
}

// PullProfile takes over a profile that refers to an image: the one with the
// digest given, or the newest. It replaces the one that is here.
func (c *Catalog) PullProfile(ctx context.Context, ref, want string) (ProfileInfo, error) {
	rec, err := c.resolve(ctx, ref)
	if err != nil {
		return ProfileInfo{}, err
	}
	if want != "" {
		if _, err := parseDigest("profile", want); err != nil {
			return ProfileInfo{}, err
		}
		return c.takeProfile(ctx, rec, digest.Digest(want), "pulled")
	}
	return c.newestProfile(ctx, rec, "pulled")
}

// findProfile looks for a profile beside an image of which there is none here.
func (c *Catalog) findProfile(ctx context.Context, rec *imageRecord) (*profile.Profile, error) {
	ctx, cancel := context.WithTimeout(ctx, profileSearch)
	defer cancel()
	if _, err := c.newestProfile(ctx, rec, "found"); err != nil {
		return nil, err
	}
	return c.loadProfile(ctx, rec.manifestDigest())
}

// newestProfile takes over the newest profile that refers to an image and can be
// read.
func (c *Catalog) newestProfile(ctx context.Context, rec *imageRecord, how string) (ProfileInfo, error) {
	fetcher, ok := c.source.(source.Fetcher)
	if !ok {
		return ProfileInfo{}, fserr.Newf(fserr.NotExist, "profile", rec.Ref, "the source has no manifests")
	}
	list, err := source.FindReferrers(ctx, fetcher, rec.Ref, digest.Digest(rec.Manifest), profile.MediaType)
	if err != nil {
		return ProfileInfo{}, err
	}
	list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.ArtifactType != profile.MediaType })
	slices.SortStableFunc(list, func(a, b ocispec.Descriptor) int {
		return -cmp.Compare(a.Annotations[ocispec.AnnotationCreated], b.Annotations[ocispec.AnnotationCreated])
	})
	var errs []error
	for _, d := range list[:min(len(list), maxProfileReferrers)] {
		info, err := c.takeProfile(ctx, rec, d.Digest, how)
		if err == nil {
			return info, nil
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return ProfileInfo{}, fserr.New(fserr.KindOf(errs[0]), "profile", rec.Ref, err)
	}
	return ProfileInfo{}, fserr.Newf(fserr.NotExist, "profile", rec.Ref, "none refers to it")
}

// takeProfile reads the profile with a digest, which must be for the image, and
// keeps it.
func (c *Catalog) takeProfile(ctx context.Context, rec *imageRecord, d digest.Digest, how string) (ProfileInfo, error) {
	text, err := c.manifest(ctx, rec.Ref, d)
	if err != nil {
		return ProfileInfo{}, err
	}
	var m ocispec.Manifest
	object := "profile " + d.String()
	if err := json.Unmarshal(text, &m); err != nil {
		return ProfileInfo{}, fserr.New(fserr.Corrupt, "decode", object, err)
	}
	switch {
	case m.ArtifactType != profile.MediaType:
		return ProfileInfo{}, fserr.Newf(fserr.Unsupported, "read", object, "artifact type %.100q", m.ArtifactType)
	case m.Subject == nil || m.Subject.Digest.String() != rec.Manifest:
		return ProfileInfo{}, fserr.Newf(fserr.Corrupt, "read", object, "it is for another image")
	case len(m.Layers) != 1 || m.Layers[0].MediaType != profile.MediaType:
		return ProfileInfo{}, fserr.Newf(fserr.Unsupported, "read", object, "%d layers", len(m.Layers))
	case m.Layers[0].Size <= 0 || m.Layers[0].Size > profile.MaxSize:
		return ProfileInfo{}, fserr.Newf(fserr.TooLarge, "read", object, "%d bytes, at most %d", m.Layers[0].Size, profile.MaxSize)
	}
	data, err := c.readProfile(ctx, rec.Ref, m.Layers[0])
	if err != nil {
		return ProfileInfo{}, err
	}
	p, err := profile.Decode(data)
	switch {
	case err != nil:
		return ProfileInfo{}, err
	case p.Manifest != rec.manifestDigest():
		return ProfileInfo{}, fserr.Newf(fserr.Corrupt, "read", object, "it is of image %s", p.Manifest)
	}
	return c.ImportProfile(ctx, data, how+": "+d.String())
}

func (c *Catalog) readProfile(ctx context.Context, ref string, desc ocispec.Descriptor) ([]byte, error) {
	if _, err := parseDigest("profile", desc.Digest.String()); err != nil {
		return nil, fserr.New(fserr.Corrupt, "", "", err)
	}
	blob, err := c.source.Blob(ctx, ref, desc)
	if err != nil {
		return nil, err
	}
	data := make([]byte, desc.Size)
	err = source.ReadVerified(ctx, blob, 0, data, func(p []byte) error {
		if digest.FromBytes(p) != desc.Digest {
			return fserr.Newf(fserr.Corrupt, "verify", "profile "+desc.Digest.String(), "bytes with another digest")
		}
		return nil
	})
	return data, err
}
