package optimize

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/internal/profile"
	"github.com/nineply/nineply/internal/source"
)

// The places that an order comes from.
const (
	FromRun      = "run"
	FromFile     = "file"
	FromDaemon   = "daemon"
	FromRegistry = "registry"
)

const (
	// largeFile is the size from which a file has to be read in good part to come
	// first, bytes: all of it is fetched ahead then.
	largeFile = 8 << 20
	// largeShare is the part: one in so many bytes.
	largeShare = 4
)

// found is what an order is made of.
type found struct {
	from    string
	records []profile.Record
	read    int64    // bytes of the files that were read
	large   []string // files that stay where they are
	ran     *Ran
	notes   []string
}

// record finds out what comes first.
func (j *job) record(ctx context.Context) (*found, error) {
	switch {
	case j.opts.Run != nil:
		return j.byRun(ctx)
	case j.opts.List != nil && !profile.IsEncoded(j.opts.List):
		records, err := ReadList(j.opts.List)
		if err == nil && len(records) == 0 {
			err = fserr.Newf(fserr.Invalid, "read", "list", "it names no files")
		}
		return &found{from: FromFile, records: records}, err
	case j.opts.List != nil:
		return j.byFile(ctx)
	}
	return j.byRecorded(ctx)
}

// private starts a daemon of our own.
func (j *job) private(ctx context.Context) (*host, error) {
	return privately(ctx, j.opts.Config, filepath.Join(j.dir, "daemon"), j.opts.Log)
}

// pinned is the source's reference with the digest of the image: what stands for
// it whoever is asked, and when.
func (j *job) pinned() (string, error) {
	ref := j.img.Ref
	if path, ok := strings.CutPrefix(ref, "oci:"); ok && !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return "", fmt.Errorf("run: %w", err)
		}
		ref = "oci:" + filepath.Join(dir, path)
	}
	return source.WithDigest(ref, j.img.Digest)
}

// byRun runs the image.
func (j *job) byRun(ctx context.Context) (f *found, err error) {
	h, err := j.hostForRun(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	manifest := j.img.Digest.String()
	if !h.private {
		putBack, err := h.putAside(ctx, manifest)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, putBack(context.WithoutCancel(ctx))) }()
	}
	ref, err := j.pinned()
	if err != nil {
		return nil, err
	}
	ran, err := runOn(ctx, h, "image/"+ref, j.opts.Config.Snapshotter.MountMode, j.img, j.opts.Run, j.dir, j.opts.Log)
	if err != nil {
		return nil, err
	}
	j.say("what it read is being collected")
	detail, err := h.profileSoon(ctx, manifest)
	if err != nil {
		return nil, err
	}
	f, err = j.filesOf(ctx, h, ref, detail, FromRun)
	if err == nil {
		f.ran = &ran
	}
	return f, err
}

// hostForRun gives the daemon that runs if it can record this image, or another.
func (j *job) hostForRun(ctx context.Context) (*host, error) {
	runtime, err := j.opts.Run.runtime()
	if err == nil {
		err = sweep(ctx, j.opts.TempDir, runtime)
	}
	if err != nil {
		return nil, err
	}
	h, err := j.runningHost(ctx)
	if err != nil {
		return nil, err
	}
	if h != nil {
		busy, err := h.busy(ctx, j.img)
		if err == nil && !busy {
			j.say("running %s through the daemon that runs", j.opts.Source)
			return h, nil
		}
		if err := errors.Join(err, h.stop()); err != nil {
			return nil, err
		}
		j.say("the image is in use with the daemon that runs")
	}
	j.say("running %s through a private daemon", j.opts.Source)
	return j.private(ctx)
}

// runningHost gives the daemon that runs, or nil if there is none or it is not to
// be used.
func (j *job) runningHost(ctx context.Context) (*host, error) {
	if j.opts.Private {
		return nil, nil
	}
	return running(ctx, j.opts.Config)
}

// byFile has a daemon of our own tell which files a profile means.
func (j *job) byFile(ctx context.Context) (f *found, err error) {
	p, err := profile.Decode(j.opts.List)
	if err != nil {
		return nil, err
	}
	data := j.opts.List
	var notes []string
	if p.Manifest.String() != j.img.Digest.String() {
		notes = append(notes, fmt.Sprintf("the profile is of image %s: what has the same content is used", p.Manifest))
		other := *p
		if other.Manifest, err = estargz.ParseDigest(j.img.Digest.String()); err != nil {
			return nil, err
		}
		if data, err = profile.Encode(&other); err != nil {
			return nil, err
		}
	}
	f, err = j.privateFiles(ctx, FromFile, func(h *host, _ string) error {
		_, err := h.client.ImportProfile(ctx, control.ProfileData{Format: control.ProfileFormat, Data: data})
		return err
	})
	if err == nil {
		f.notes = notes
	}
	return f, err
}

// privateFiles has a daemon of our own tell which files a profile means that get
// brings there.
func (j *job) privateFiles(ctx context.Context, from string, get func(h *host, ref string) error) (f *found, err error) {
	h, err := j.private(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	ref, err := j.pinned()
	if err != nil {
		return nil, err
	}
	if err := get(h, ref); err != nil {
		return nil, err
	}
	detail, err := h.client.Profile(ctx, ref)
	if err != nil {
		return nil, err
	}
	return j.filesOf(ctx, h, ref, detail, from)
}

// byRecorded uses the profile that the running daemon has of the image, or else one
// that lies beside the image.
func (j *job) byRecorded(ctx context.Context) (*found, error) {
	f, err := j.byDaemon(ctx)
	if err != nil || f != nil {
		return f, err
	}
	f, err = j.privateFiles(ctx, FromRegistry, func(h *host, ref string) error {
		_, err := h.client.PullProfile(ctx, control.ProfileRequest{Ref: ref})
		return err
	})
	if fserr.Is(err, fserr.NotExist) || fserr.Is(err, fserr.Unsupported) {
		err = fserr.Newf(fserr.NotExist, "optimize", j.opts.Source, "no daemon here has a profile of it, and none lies beside it: run it with --run or with -- COMMAND, or give a profile with --profile FILE: %w", err)
	}
	return f, err
}

// byDaemon asks the running daemon. nil: there is none, or it has no profile.
func (j *job) byDaemon(ctx context.Context) (f *found, err error) {
	h, err := j.runningHost(ctx)
	if h == nil || err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	detail, err := h.client.Profile(ctx, j.img.Digest.String())
	if fserr.Is(err, fserr.NotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ref, err := j.pinned()
	if err != nil {
		return nil, err
	}
	return j.filesOf(ctx, h, ref, detail, FromDaemon)
}

// filesOf makes records of the files of a profile, but for those that few runs
// read, and large ones of which little was read.
func (j *job) filesOf(ctx context.Context, h *host, ref string, detail control.ProfileDetail, from string) (*found, error) {
	f := &found{from: from}
	sizes, err := h.sizes(ctx, ref, detail.Files)
	if err != nil {
		return nil, err
	}
	for i := range detail.Files {
		file := &detail.Files[i]
		if !file.Usual {
			continue
		}
		f.read += file.Bytes
		if size := sizes[file.Path]; size >= largeFile && file.Bytes < size/largeShare {
			f.large = append(f.large, file.Path)
			continue
		}
		f.records = append(f.records, profile.Record{Path: file.Path, ManifestDigest: j.img.Digest.String(), LayerIndex: &file.Layer})
	}
	if len(f.records) == 0 {
		return nil, fserr.Newf(fserr.NotExist, "optimize", ref, "its profile tells of no file of it")
	}
	return f, nil
}

// sizes looks up the sizes of files of which more than a little was read, or that
// are cut.
func (h *host) sizes(ctx context.Context, ref string, files []control.ProfileFile) (map[string]int64, error) {
	client, err := p9client.Dial(ctx, h.ninep, p9client.Options{})
	if err != nil {
		return nil, fmt.Errorf("daemon at %s: %w", h.ninep, err)
	}
	defer func() { _ = client.Close() }() // it has nothing to lose
	root, err := client.Attach(ctx, "image/"+ref)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	sizes := map[string]int64{}
	for i := range files {
		if files[i].Bytes < largeFile>>8 {
			continue // all of a small file, most likely: chunks are not smaller than that
		}
		file, attr, err := root.WalkStat(ctx, strings.Split(strings.Trim(files[i].Path, "/"), "/")...)
		if err != nil {
			continue // it is hidden by a layer above, and was read by other means
		}
		sizes[files[i].Path] = int64(attr.Size)
		if err := file.Close(); err != nil {
			return nil, fmt.Errorf("%s: %w", files[i].Path, err)
		}
	}
	return sizes, nil
}

// recordText is what ctr-remote --record-out writes.
func recordText(records []profile.Record) ([]byte, error) {
	var out bytes.Buffer
	err := profile.WriteRecords(&out, records)
	return out.Bytes(), err
}
