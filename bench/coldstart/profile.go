package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/profile"
)

// learnWithin is how long after a start the daemon may take to keep its profile.
const learnWithin = 30 * time.Second

// noProfiles is the configuration of a daemon that learns nothing and has learnt
// nothing.
const noProfiles = "[profiles]\nrecord = false\nuse = false\n"

// profileBars are what a start with a profile may take: few requests, for little that
// is not read, and none for a reader who waits.
func profileBars() map[string]float64 {
	return map[string]float64{"data-requests": 12, "fetched-per-needed": 1.1, "demand-requests": 0, "unknown-reads": 0}
}

// singleBars are the same where a request can bring one range only: what is read
// lies too far apart then for few requests.
func singleBars() map[string]float64 {
	bars := profileBars()
	delete(bars, "data-requests")
	return bars
}

// profiled is the lazy image with the profile of a run that went before on another
// node. The image is the same as without.
func profiled(name string, single bool, bars map[string]float64) variant {
	var learnt control.ProfileData
	v := variant{name: name, snapshotter: "nineply", single: single, bars: bars}
	v.image = func(ctx context.Context, b *bench, plain string) (tag string, err error) {
		if tag, err = converted(name, convert.Options{})(ctx, b, plain); err == nil {
			learnt, err = learn(ctx, b, tag, control.ProfileFormat)
		}
		return tag, err
	}
	v.before = func(ctx context.Context, r *run) error { return importProfile(ctx, r, learnt) }
	return v
}

// landmark is the image converted anew with the files first that a run read, and
// no profile.
func landmark() variant {
	return variant{name: "landmark", snapshotter: "nineply", config: noProfiles, image: func(ctx context.Context, b *bench, plain string) (string, error) {
		return ordered(ctx, b, plain, "landmark")
	}}
}

// orderedProfile is that image with a profile of its own: what is read lies side
// by side.
func orderedProfile() variant {
	var learnt control.ProfileData
	v := variant{name: "ordered-profile", snapshotter: "nineply", bars: profileBars()}
	v.image = func(ctx context.Context, b *bench, plain string) (tag string, err error) {
		if tag, err = ordered(ctx, b, plain, "ordered"); err == nil {
			learnt, err = learn(ctx, b, tag, control.ProfileFormat)
		}
		return tag, err
	}
	v.before = func(ctx context.Context, r *run) error { return importProfile(ctx, r, learnt) }
	return v
}

// ordered converts the image with the files first that a run of it read.
func ordered(ctx context.Context, b *bench, plain, tag string) (string, error) {
	first, err := converted("unordered", convert.Options{})(ctx, b, plain)
	if err != nil {
		return "", err
	}
	learnt, err := learn(ctx, b, first, control.RecordsFormat)
	if err != nil {
		return "", err
	}
	records, err := profile.ReadRecords(bytes.NewReader(learnt.Data))
	if err != nil {
		return "", err
	}
	var paths []string
	for _, r := range records {
		paths = append(paths, r.Path)
	}
	return converted(tag, convert.Options{Writer: estargz.WriterOptions{Prioritized: paths}})(ctx, b, plain)
}

// learn runs the image once and gives its profile.
func learn(ctx context.Context, b *bench, tag, format string) (data control.ProfileData, err error) {
	say("running " + tag + " once, to learn what it reads")
	first := variant{name: "learn", snapshotter: "nineply", tag: tag, after: func(ctx context.Context, r *run) error {
		data, err = exportProfile(ctx, r, format)
		return err
	}}
	_, err = b.run(ctx, &first, 0)
	return data, err
}

// exportProfile gives the only profile there is, once the daemon has kept it.
func exportProfile(ctx context.Context, r *run, format string) (control.ProfileData, error) {
	manifest, err := learnt(ctx, r)
	if err != nil {
		return control.ProfileData{}, err
	}
	return r.client.ExportProfile(ctx, manifest, format)
}

// learnt waits until the daemon has kept a profile, and gives the digest of its image.
func learnt(ctx context.Context, r *run) (manifest string, err error) {
	ctx, cancel := context.WithTimeout(ctx, learnWithin)
	defer cancel()
	for {
		list, err := r.client.Profiles(ctx)
		if err != nil {
			return "", err
		}
		if len(list) > 0 {
			say(fmt.Sprintf("learnt: %d chunks, %d bytes, kept in %d bytes", list[0].Chunks, list[0].Bytes, list[0].Size))
			return list[0].Manifest, nil
		}
		select {
		case <-ctx.Done():
			return "", fserr.Newf(fserr.NotExist, "learn", r.ref, "no profile was kept")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func importProfile(ctx context.Context, r *run, data control.ProfileData) error {
	_, err := r.client.ImportProfile(ctx, data)
	return err
}
