package demoimage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// version changes when the image made from the same archive changes, so that
// cached images are made anew.
const version = 2

// Options of Build. The zero value works.
type Options struct {
	// CacheDir keeps finished images, [CacheDir] if empty.
	CacheDir string
	// Progress is told each step before it begins, in words for a person.
	Progress func(step string)
}

func (o Options) progress(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}

// Build returns the demo image, from the cache if it is there. Otherwise it
// makes it, which takes a minute or two, root, debootstrap, and a package
// archive configured for apt. Concurrent calls, of other processes too, wait
// for the one that builds.
func Build(ctx context.Context, opts Options) (*Image, error) {
	a, err := machineArchive("/")
	if err != nil {
		return nil, fmt.Errorf("demo image: %w", err)
	}
	if opts.CacheDir == "" {
		if opts.CacheDir, err = CacheDir(); err != nil {
			return nil, fmt.Errorf("demo image: %w", err)
		}
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%d %s %s %s", version, runtime.GOARCH, a.URI, a.Suite))
	dir := filepath.Join(opts.CacheDir, fmt.Sprintf("demo-image-%x", key[:6]))
	unlock, err := lock(dir)
	if err != nil {
		return nil, fmt.Errorf("demo image: %w", err)
	}
	im, err := open(dir)
	if errors.Is(err, os.ErrNotExist) {
		im, err = buildDebian(ctx, dir, a, opts)
	}
	if err := errors.Join(err, unlock()); err != nil {
		return nil, fmt.Errorf("demo image: %w", err)
	}
	return im, nil
}

// lock takes the lock that guards a cached directory.
func lock(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f.Close, nil
}

// buildDebian makes the image in a directory beside dir and renames it there
// when it is complete.
func buildDebian(ctx context.Context, dir string, a archive, opts Options) (_ *Image, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("making the root file system needs root")
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "demo-image-*.tmp")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	l, err := newLayout(filepath.Join(work, "image"))
	if err != nil {
		return nil, err
	}
	layers, err := debianLayers(ctx, work, a, opts)
	if err != nil {
		return nil, err
	}
	for i := range layers {
		if err := l.addLayer(&layers[i]); err != nil {
			return nil, err
		}
	}
	if _, err := l.finish("demo", []string{"python3", HelloPath}, layers); err != nil {
		return nil, err
	}
	if err := os.Rename(l.dir, dir); err != nil {
		return nil, err
	}
	return open(dir)
}

// debianLayers makes the root and writes the layers: the base, the change that
// installing python3 makes, the application.
func debianLayers(ctx context.Context, work string, a archive, opts Options) ([]Layer, error) {
	root := filepath.Join(work, "root")
	opts.progress("making a %s root from %s with debootstrap", a.Suite, a.URI)
	if err := debootstrap(ctx, root, a); err != nil {
		return nil, err
	}
	before, err := treesum.Walk(root, treesum.Options{})
	if err != nil {
		return nil, err
	}
	opts.progress("writing the base layer: %s", treesum.Summary(before))
	entries, err := treeEntries(root, before)
	if err != nil {
		return nil, err
	}
	base, err := writeLayer(ctx, filepath.Join(work, "base"), sorted(mergeEntries(entries, lowerEntries())))
	if err != nil {
		return nil, err
	}
	opts.progress("installing python3 in it")
	if err := installPackages(ctx, root, "python3"); err != nil {
		return nil, err
	}
	python, err := changeLayer(ctx, root, before, filepath.Join(work, "python"))
	if err != nil {
		return nil, err
	}
	opts.progress("writing the application layer")
	t, err := readTools(root)
	if err != nil {
		return nil, err
	}
	app, err := writeLayer(ctx, filepath.Join(work, "app"), sorted(appEntries(t, blobSize)))
	if err != nil {
		return nil, err
	}
	return []Layer{base, python, app}, nil
}

func changeLayer(ctx context.Context, root string, before []treesum.Node, path string) (Layer, error) {
	after, err := treesum.Walk(root, treesum.Options{})
	if err != nil {
		return Layer{}, err
	}
	changed, gone := changes(before, after)
	entries, err := treeEntries(root, changed)
	if err != nil {
		return Layer{}, err
	}
	return writeLayer(ctx, path, sorted(append(entries, gone...)))
}

// mergeEntries adds entries whose names are not there yet.
func mergeEntries(entries, more []entry) []entry {
	have := make(map[string]bool, len(entries))
	for i := range entries {
		have[entries[i].header.Name] = true
	}
	for _, e := range more {
		if !have[e.header.Name] {
			entries = append(entries, e)
		}
	}
	return entries
}

// BuildSmall makes in dir an image of two layers, the application over a base
// with only what the application changes. It has no programs to run; it needs
// neither root nor network.
func BuildSmall(ctx context.Context, dir string) (*Image, error) {
	l, err := newLayout(dir)
	if err != nil {
		return nil, err
	}
	var layers []Layer
	for _, entries := range [][]entry{lowerEntries(), appEntries(tools{}, 6<<20)} {
		layer, err := writeLayer(ctx, filepath.Join(dir, "layer"), sorted(entries))
		if err != nil {
			return nil, err
		}
		if err := l.addLayer(&layer); err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	return l.finish("small", []string{HelloPath}, layers)
}

// Push copies the image to ref ("host:port/name:tag") with skopeo, over plain
// HTTP if that is what the registry speaks.
func (im *Image) Push(ctx context.Context, ref string) error {
	return run(exec.CommandContext(ctx, "skopeo", "--insecure-policy", "copy", "--quiet",
		"--dest-tls-verify=false", "--preserve-digests", "oci:"+im.Dir+":"+im.Tag, "docker://"+ref))
}
