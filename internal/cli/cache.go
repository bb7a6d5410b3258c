package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/daemon"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/spf13/cobra"
)

func (a *app) cacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cache", Short: "Look into the cache, tidy it, check it, and keep images in it",
		Long: `The daemon keeps what it has fetched in one cache of chunks, whichever image, layer
or format they came from. Each is stored once and checked whenever it is read. When
the limit ([cache] max-size) is near, what was not read again goes first; chunks of
pinned images stay.

All of it can be fetched again: nothing that these commands remove is lost for good.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{fmt.Errorf("usage: %s ls|gc|verify|rebuild|pin|unpin", cmd.CommandPath())}
		},
	}
	cmd.AddCommand(a.cacheListCommand(), a.cacheCollectCommand(), a.cacheVerifyCommand(), a.cacheRebuildCommand(), a.cachePinCommand(), a.cacheUnpinCommand())
	return cmd
}

func (a *app) cacheListCommand() *cobra.Command {
	var asJSON, layers bool
	cmd := &cobra.Command{
		Use: "ls [IMAGE]", Short: "List what images have in the cache", Args: nArgs(0, 1),
		Long: `ls lists the images that the daemon knows, and how many of their chunks are in the
cache; with IMAGE, or with --layers, each layer too. A chunk that several images or
layers have is stored once and counts for each here. Bytes of images are those of
files, decompressed; the total is what the cache takes on the disk.`,
		Example: `  nineply cache ls
  nineply cache ls example.com/python:3.12
  nineply cache ls --json | jq '.images[] | {ref, localBytes}'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *control.Client) error {
				list, err := c.CacheList(cmd.Context(), first(args))
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(list)
				}
				return a.printCache(list, layers || len(args) > 0)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.Flags().BoolVar(&layers, "layers", false, "list the layers of each image, too")
	return cmd
}

func (a *app) printCache(list control.CacheList, layers bool) error {
	limit := "no limit"
	if list.MaxBytes > 0 {
		limit = "of " + bytesText(list.MaxBytes)
	}
	_, err := fmt.Fprintf(a.stdout, "%s %s, %d chunks, %s read again, %d chunks pinned\n", bytesText(list.Bytes), limit, list.Chunks, bytesText(list.ProvenBytes), list.Pinned)
	if err != nil || len(list.Images) == 0 {
		return err
	}
	t := newTable(a.stdout, "\nMANIFEST", "CHUNKS LOCAL", "BYTES LOCAL", "", "IMAGE")
	for _, img := range list.Images {
		t.row(shortDigest(img.Manifest), fmt.Sprintf("%d/%d", img.Local, img.Chunks), ofText(img.LocalBytes, img.Bytes), imageNotes(img), img.Ref)
	}
	if err := t.flush(); err != nil || !layers {
		return err
	}
	t = newTable(a.stdout, "\nLAYER", "FORMAT", "CHUNKS LOCAL", "BYTES LOCAL", "INDEX", "", "IMAGE")
	for _, img := range list.Images {
		for _, l := range img.Layers {
			t.row(shortDigest(l.Digest), l.Format, fmt.Sprintf("%d/%d", l.Local, l.Chunks), ofText(l.LocalBytes, l.Bytes), bytesText(l.IndexBytes), l.Reason, img.Ref)
		}
	}
	return t.flush()
}

func ofText(n, all int64) string { return bytesText(n) + "/" + bytesText(all) }

func imageNotes(img control.CacheImage) string {
	var notes []string
	if img.Pinned {
		notes = append(notes, "pinned")
	}
	if img.InUse {
		notes = append(notes, "in use")
	}
	return strings.Join(notes, ", ")
}

func (a *app) cacheCollectCommand() *cobra.Command {
	var asJSON, unused bool
	var target string
	cmd := &cobra.Command{
		Use: "gc [--target SIZE | --all-unused]", Short: "Remove what is not used any more", Args: nArgs(0, 0),
		Long: `gc removes what the daemon knows of images that nothing uses: no snapshot of
containerd, no mount, no attached guest and no pin. That is their records and the
index files of layers that no other image has. Segments of which little is left are
merged. Chunks stay until the limit needs their room.

  --all-unused  also evicts the chunks that no image in use has
  --target SIZE also evicts chunks, the least valuable first, until the cache takes
                no more than SIZE; chunks of pinned images stay

It prints what was freed. An image that was removed is fetched again when it is used.`,
		Example: `  nineply cache gc
  nineply cache gc --all-unused
  nineply cache gc --target 2GB --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := control.CacheCollect{Unused: unused}
			if cmd.Flags().Changed("target") {
				n, err := config.ParseSize(target)
				if err != nil {
					return usageError{fmt.Errorf("--target: %w", err)}
				}
				in.Target = (*int64)(&n)
			}
			return a.withClient(func(c *control.Client) error {
				done, err := c.CollectCache(cmd.Context(), in)
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(done)
				}
				return a.printCollected(done)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.Flags().BoolVar(&unused, "all-unused", false, "evict the chunks that no image in use has")
	cmd.Flags().StringVar(&target, "target", "", "evict chunks until the cache takes this, as in 2GB or 500MiB")
	cmd.MarkFlagsMutuallyExclusive("target", "all-unused")
	return cmd
}

func (a *app) printCollected(done control.CacheCollected) error {
	t := newTable(a.stdout)
	t.row("images", fmt.Sprintf("%d removed, with %d layers", done.Images, done.Layers))
	t.row("index files", fmt.Sprintf("%d removed, %s freed", done.Files, bytesText(done.FileBytes)))
	t.row("chunks", fmt.Sprintf("%d evicted, %s freed", done.Chunks, bytesText(done.FreedBytes)))
	t.row("cache", bytesText(done.Bytes)+" now")
	return t.flush()
}

// long runs something that takes long, on the daemon or, with root, without one,
// and shows its progress on a terminal. An interrupt ends it.
func long[T any](cmd *cobra.Command, a *app, unit string,
	online func(*control.Client, context.Context, func(control.CacheProgress)) (T, error),
	offline func(context.Context, config.Config, func(control.CacheProgress)) (T, error),
) (out T, err error) {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var progress func(control.CacheProgress)
	if isTerminal(a.stderr) {
		progress = func(p control.CacheProgress) {
			_, _ = fmt.Fprintf(a.stderr, "\r%d of %d %s\x1b[K", p.Done, p.All, unit)
		}
		defer func() { _, _ = fmt.Fprint(a.stderr, "\r\x1b[K") }()
	}
	if a.root == "" {
		err = a.withClient(func(c *control.Client) error {
			out, err = online(c, ctx, progress)
			return err
		})
		return out, err
	}
	c, err := a.config()
	if err != nil {
		return out, err
	}
	if out, err = offline(ctx, c, progress); fserr.Is(err, fserr.Busy) {
		err = fmt.Errorf("%w; leave --root out to have the daemon do it", err)
	}
	return out, err
}

func (a *app) rootFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.root, "root", "", "directory of a stopped daemon's data: do it without a daemon")
}

func (a *app) cacheVerifyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "verify", Short: "Read every chunk in the cache and drop the damaged ones", Args: nArgs(0, 0),
		Long: `verify has the daemon read every chunk and check the checksum of each block and the
digest of the whole. Damaged chunks are dropped, and fetched again when they are
needed. It exits with 3 if there were any: the disk may be failing.

Readers are served meanwhile, and no read needs this to be right: it is checked, too.
With --root no daemon is needed, and none may be running.`,
		Example: `  nineply cache verify
  nineply cache verify --root /var/lib/nineply --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := long(cmd, a, "chunks", func(c *control.Client, ctx context.Context, p func(control.CacheProgress)) (control.CacheVerified, error) {
				return c.VerifyCache(ctx, p)
			}, daemon.VerifyOffline)
			if err != nil {
				return err
			}
			return a.printChecked(v, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	a.rootFlag(cmd)
	return cmd
}

func (a *app) printChecked(v control.CacheVerified, asJSON bool) error {
	var err error
	if asJSON {
		err = a.printJSON(v)
	} else {
		_, err = fmt.Fprintf(a.stdout, "%d chunks, %s, %d damaged\n", v.Chunks, bytesText(v.Bytes), v.Damaged)
		for _, d := range v.Digests {
			if err == nil {
				_, err = fmt.Fprintf(a.stdout, "dropped %s\n", d)
			}
		}
	}
	if err == nil && v.Damaged > 0 {
		err = fserr.Newf(fserr.Corrupt, "verify", "cache", "%d chunks were damaged; they will be fetched again", v.Damaged)
	}
	return err
}

func (a *app) cacheRebuildCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "rebuild", Short: "Find the places of all chunks anew", Args: nArgs(0, 0),
		Long: `rebuild empties the database that says where chunks are, and fills it from the
segments that hold them. The daemon does that by itself when the database is lost,
damaged or older than the segments: this is for when you do not trust it. What is
known of images stays.

Readers are served meanwhile; chunks that cannot be found yet may be fetched again.
With --root no daemon is needed, and none may be running.`,
		Example: `  nineply cache rebuild
  nineply cache rebuild --root /var/lib/nineply`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := long(cmd, a, "segments", func(c *control.Client, ctx context.Context, p func(control.CacheProgress)) (control.CacheRebuilt, error) {
				return c.RebuildCache(ctx, p)
			}, daemon.RebuildOffline)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(r)
			}
			_, err = fmt.Fprintf(a.stdout, "%d chunks in %d segments, %d before\n", r.Chunks, r.Segments, r.Before)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	a.rootFlag(cmd)
	return cmd
}

func (a *app) cachePinCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "pin IMAGE", Short: "Keep the chunks of an image in the cache", Args: nArgs(1, 1),
		Long: `pin has the daemon keep those chunks of IMAGE that are in the cache, and those that
come: they are not evicted, and "gc" leaves the image alone. It fetches the tables of
contents of the image's layers if need be, but no files. The pin is on the manifest
that the reference names now, and stays until "unpin".

The limit of the cache holds all the same. Once nothing is left but pinned chunks,
other images are served without being cached.`,
		Example: `  nineply cache pin example.com/python:3.12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *control.Client) error {
				p, err := c.PinImage(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(p)
				}
				_, err = fmt.Fprintf(a.stdout, "%s\n%d chunks pinned\n", strings.Join(p.Manifests, "\n"), p.Chunks)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (a *app) cacheUnpinCommand() *cobra.Command {
	return &cobra.Command{
		Use: "unpin IMAGE", Short: "Let the chunks of an image be evicted again", Args: nArgs(1, 1),
		Long: `unpin ends what pin began. IMAGE is the reference that was pinned, whatever it names
now, or a manifest digest. Nothing is removed until space is needed.`,
		Example: `  nineply cache unpin example.com/python:3.12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *control.Client) error {
				_, err := c.UnpinImage(cmd.Context(), args[0])
				return err
			})
		},
	}
}
