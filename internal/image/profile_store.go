package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/profile"
	"go.uber.org/zap"
)

// The keys of profiles, each followed by the manifest digest of an image.
const (
	keyProfile     = "profile/"      // → the file of a profile
	keyProfileInfo = "profile-info/" // → ProfileInfo
)

// The limits of all profiles together.
const (
	maxProfiles     = 1024
	maxProfileBytes = 64 << 20
)

// ProfileInfo describes the profile of one image.
type ProfileInfo struct {
	Manifest string    `json:"manifest"` // of the image
	Ref      string    `json:"ref"`      // by which it was seen last
	Runs     int       `json:"runs"`
	Chunks   int       `json:"chunks"`
	Bytes    int64     `json:"bytes"` // of those chunks, decompressed
	Size     int64     `json:"size"`  // of the profile, bytes
	Changed  time.Time `json:"changed"`
	Origin   string    `json:"origin,omitempty"` // if it was not recorded here
}

// keepRun adds a run to the profile of its image.
func (c *Catalog) keepRun(ctx context.Context, run *profile.Run) error {
	c.profileMu.Lock()
	defer c.profileMu.Unlock()
	old, err := c.loadProfile(ctx, run.Manifest)
	if err != nil && !fserr.Is(err, fserr.NotExist) {
		c.log.Warn("access profile is begun anew", zap.Stringer("image", run.Manifest), zap.Error(err))
	}
	p, err := profile.Merge(old, run)
	if err != nil {
		return err
	}
	info := ProfileInfo{}
	if err := c.load(ctx, keyProfileInfo+run.Manifest.String(), &info); err != nil {
		info = ProfileInfo{}
	}
	if err := c.saveProfile(ctx, p, info.Origin); err != nil {
		return err
	}
	c.profileStats.runs.Add(1)
	return nil
}

// saveProfile keeps a profile, and makes room for it. profileMu is held.
func (c *Catalog) saveProfile(ctx context.Context, p *profile.Profile, origin string) error {
	data, err := profile.Encode(p)
	if err != nil {
		return err
	}
	info := ProfileInfo{
		Manifest: p.Manifest.String(), Runs: int(p.Runs), Chunks: len(p.Entries), Size: int64(len(data)),
		Changed: time.Now().UTC().Truncate(time.Second), Origin: origin,
	}
	for i := range p.Entries {
		info.Bytes += p.Entries[i].Size
	}
	if rec, err := c.known(ctx, info.Manifest); err == nil {
		info.Ref = rec.Ref
	}
	if err := c.makeRoom(ctx, info); err != nil {
		return err
	}
	if err := c.records.Put(ctx, keyProfile+info.Manifest, data); err != nil {
		return fmt.Errorf("access profile: %w", err)
	}
	return c.save(ctx, keyProfileInfo+info.Manifest, info)
}

// makeRoom removes the profiles that were not changed longest until one more fits.
func (c *Catalog) makeRoom(ctx context.Context, more ProfileInfo) error {
	list, err := c.Profiles(ctx)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(i ProfileInfo) bool { return i.Manifest == more.Manifest })
	count, size := len(list)+1, more.Size
	for _, i := range list {
		size += i.Size
	}
	for ; len(list) > 0 && (count > c.maxProfiles || size > maxProfileBytes); count-- {
		oldest := list[len(list)-1]
		list = list[:len(list)-1]
		size -= oldest.Size
		if err := c.deleteProfile(ctx, oldest.Manifest); err != nil {
			return err
		}
	}
	return nil
}

func (c *Catalog) deleteProfile(ctx context.Context, manifest string) error {
	if err := c.records.Delete(ctx, keyProfileInfo+manifest); err != nil {
		return err
	}
	return c.records.Delete(ctx, keyProfile+manifest)
}

func (c *Catalog) loadProfile(ctx context.Context, manifest estargz.Digest) (*profile.Profile, error) {
	data, err := c.records.Get(ctx, keyProfile+manifest.String())
	if err != nil {
		return nil, err
	}
	p, err := profile.Decode(data)
	if err == nil && p.Manifest != manifest {
		err = fserr.Newf(fserr.Corrupt, "profile", manifest.String(), "it is of image %s", p.Manifest)
	}
	return p, err
}

func (c *Catalog) hasProfile(ctx context.Context, manifest string) bool {
	_, err := c.records.Get(ctx, keyProfileInfo+manifest)
	return err == nil
}

// Profiles lists the profiles that this node has, those changed last first.
func (c *Catalog) Profiles(ctx context.Context) ([]ProfileInfo, error) {
	var list []ProfileInfo
	err := c.records.Walk(ctx, keyProfileInfo, func(key string, val []byte) error {
		info := ProfileInfo{Manifest: strings.TrimPrefix(key, keyProfileInfo)}
		if err := json.Unmarshal(val, &info); err != nil {
			c.log.Warn("record is damaged", zap.String("key", key), zap.Error(err))
		}
		list = append(list, info)
		return nil
	})
	slices.SortStableFunc(list, func(a, b ProfileInfo) int {
		return cmp.Or(b.Changed.Compare(a.Changed), cmp.Compare(a.Manifest, b.Manifest))
	})
	return list, err
}

// Profile gives the profile of an image by its reference or manifest digest.
func (c *Catalog) Profile(ctx context.Context, name string) (*profile.Profile, ProfileInfo, error) {
	manifest, err := c.profileName(ctx, name)
	if err != nil {
		return nil, ProfileInfo{}, err
	}
	p, err := c.loadProfile(ctx, manifest)
	if fserr.Is(err, fserr.NotExist) {
		err = fserr.Newf(fserr.NotExist, "profile", name, "none was recorded here")
	}
	if err != nil {
		return nil, ProfileInfo{}, err
	}
	var info ProfileInfo
	if err := c.load(ctx, keyProfileInfo+manifest.String(), &info); err != nil {
		info = ProfileInfo{Manifest: manifest.String(), Runs: int(p.Runs), Chunks: len(p.Entries)}
	}
	return p, info, nil
}

// profileName finds the manifest that a name stands for. A profile may be there of
// an image that is not.
func (c *Catalog) profileName(ctx context.Context, name string) (estargz.Digest, error) {
	if d, err := estargz.ParseDigest(name); err == nil {
		return d, nil
	}
	rec, err := c.resolve(ctx, name)
	if err != nil {
		return estargz.Digest{}, err
	}
	return parseDigest("manifest", rec.Manifest)
}

// ImportProfile takes over the file of a profile for the image it is of. It
// replaces the one that is here.
func (c *Catalog) ImportProfile(ctx context.Context, data []byte, origin string) (ProfileInfo, error) {
	p, err := profile.Decode(data)
	if err != nil {
		return ProfileInfo{}, err
	}
	c.profileMu.Lock()
	defer c.profileMu.Unlock()
	if err := c.saveProfile(ctx, p, origin); err != nil {
		return ProfileInfo{}, err
	}
	_, info, err := c.Profile(ctx, p.Manifest.String())
	return info, err
}

// RemoveProfile removes the profile of an image.
func (c *Catalog) RemoveProfile(ctx context.Context, name string) error {
	_, info, err := c.Profile(ctx, name)
	if err != nil && !fserr.Is(err, fserr.Corrupt) {
		return err
	}
	if err != nil { // a damaged one is removed all the same
		d, derr := c.profileName(ctx, name)
		if derr != nil {
			return derr
		}
		info.Manifest = d.String()
	}
	c.profileMu.Lock()
	defer c.profileMu.Unlock()
	return c.deleteProfile(ctx, info.Manifest)
}

// eachImage calls fn with the image records.
func (c *Catalog) eachImage(ctx context.Context, fn func(rec *imageRecord)) error {
	return c.records.Walk(ctx, keyImage, func(_ string, val []byte) error {
		rec := new(imageRecord)
		if json.Unmarshal(bytes.TrimSpace(val), rec) == nil { // else it is made anew when it is needed
			fn(rec)
		}
		return nil
	})
}
