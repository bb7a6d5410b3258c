package source

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
)

// MaxReferrers bounds the manifests that refer to one manifest.
const MaxReferrers = 1024

// Referrers is a source that knows which manifests of a repository have a given
// one as their subject.
type Referrers interface {
	// Referrers lists the manifests in the repository of ref whose subject is the
	// manifest with digest subject. kept is false when the source keeps no such
	// lists.
	Referrers(ctx context.Context, ref string, subject digest.Digest) (list []ocispec.Descriptor, kept bool, err error)
}

// ReferrersTag is the tag under which, by the distribution specification, those
// who push keep the list of a manifest's referrers where the registry does not.
func ReferrersTag(subject digest.Digest) string {
	return strings.Replace(subject.String(), ":", "-", 1)
}

// FindReferrers lists what refers to the manifest with digest subject in the
// repository of ref: those of one artifact type, or of all if it is "", and those
// of which the list does not say the type. Who can push into the repository can
// change that list; it proves nothing.
func FindReferrers(ctx context.Context, src Fetcher, ref string, subject digest.Digest, artifactType string) ([]ocispec.Descriptor, error) {
	list, _, err := referrers(ctx, src, ref, subject)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(d ocispec.Descriptor) bool {
		other := artifactType != "" && d.ArtifactType != "" && d.ArtifactType != artifactType
		return other || checkDescriptor(d, MaxManifestBytes) != nil
	}), nil
}

// referrers lists all referrers. kept says that the source does so by itself.
func referrers(ctx context.Context, src Fetcher, ref string, subject digest.Digest) (list []ocispec.Descriptor, kept bool, err error) {
	if err := CheckDigest(subject); err != nil {
		return nil, false, err
	}
	if r, ok := src.(Referrers); ok {
		if list, kept, err = r.Referrers(ctx, ref, subject); err != nil || kept {
			return list, kept, err
		}
	}
	name, err := WithTag(ref, ReferrersTag(subject))
	if err != nil {
		return nil, false, err
	}
	_, data, err := src.FetchManifest(ctx, name)
	if fserr.KindOf(err) == fserr.NotExist {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	list, err = ParseReferrers(data)
	if err != nil {
		return nil, false, fserr.New(fserr.KindOf(err), "read", name, err)
	}
	return list, false, nil
}

// ParseReferrers reads a list of referrers, which is an image index.
func ParseReferrers(data []byte) ([]ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fserr.New(fserr.Corrupt, "decode", "referrers", err)
	}
	if mt := ManifestType(index.MediaType, data); mt != ocispec.MediaTypeImageIndex {
		return nil, fserr.Newf(fserr.Corrupt, "decode", "referrers", "media type %q is not that of an image index", clip(mt, 128))
	}
	if len(index.Manifests) > MaxReferrers {
		return nil, fserr.Newf(fserr.TooLarge, "decode", "referrers", "%d of them, at most %d are read", len(index.Manifests), MaxReferrers)
	}
	return index.Manifests, nil
}

// AddReferrer makes a manifest that p has pushed known as a referrer of its
// subject, where src does not see to that by itself. It reads, changes and writes
// the list: of two that do so at once, one may be lost, and has to be added again.
func AddReferrer(ctx context.Context, src Fetcher, p Pusher, ref string, subject digest.Digest, referrer ocispec.Descriptor) error {
	return changeReferrers(ctx, src, p, ref, subject, func(list []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		for i, d := range list {
			if d.Digest == referrer.Digest {
				list[i] = referrer
				return list, nil
			}
		}
		if len(list) >= MaxReferrers {
			return nil, fserr.Newf(fserr.TooLarge, "push", subject.String(), "it has %d referrers already", len(list))
		}
		return append(list, referrer), nil
	})
}

// DropReferrer takes a manifest off the list that [AddReferrer] keeps.
func DropReferrer(ctx context.Context, src Fetcher, p Pusher, ref string, subject, referrer digest.Digest) error {
	return changeReferrers(ctx, src, p, ref, subject, func(list []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		return slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.Digest == referrer }), nil
	})
}

func changeReferrers(ctx context.Context, src Fetcher, p Pusher, ref string, subject digest.Digest, change func([]ocispec.Descriptor) ([]ocispec.Descriptor, error)) error {
	list, kept, err := referrers(ctx, src, ref, subject)
	if err != nil || kept {
		return err
	}
	changed, err := change(slices.Clone(list))
	if err != nil {
		return err
	}
	if len(changed) == 0 && len(list) == 0 {
		return nil
	}
	if changed == nil {
		changed = []ocispec.Descriptor{}
	}
	data, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: changed})
	if err != nil {
		return fmt.Errorf("encode referrers: %w", err)
	}
	name, err := WithTag(ref, ReferrersTag(subject))
	if err != nil {
		return err
	}
	tag, err := TagOf(name)
	if err != nil {
		return err
	}
	_, err = p.PushManifest(ctx, tag, ocispec.MediaTypeImageIndex, data)
	return err
}
