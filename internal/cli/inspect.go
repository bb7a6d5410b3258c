package cli

import (
	"fmt"
	"strings"

	"github.com/nineply/nineply/internal/image"
	"github.com/spf13/cobra"
)

func (a *app) inspectCommand() *cobra.Command {
	var asJSON bool
	var selection selectionFlags
	var store containerdFlags
	cmd := &cobra.Command{
		Use: "inspect IMAGE", Short: "Show an image's layers, and whether each is lazy or why not", Args: nArgs(1, 1),
		Long: `inspect reads manifests and tables of contents only, from a registry or from what
else can name an image: oci:/path:tag, oci-archive:/path.tar:tag, containerd:IMAGE.
It needs no daemon.

"cold start" is what has to be fetched before a container's first read can be
served: tables of contents, what the image wants to be fetched ahead, and layers
that are not lazy as a whole.`,
		Example: `  nineply inspect example.com/python:3.12
  nineply inspect oci:/srv/images/python:3.12 --json
  nineply inspect --all-platforms example.com/python:3.12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			sel, err := selection.read()
			if err != nil {
				return err
			}
			src, err := a.sources(store)
			if err != nil {
				return err
			}
			defer func() { _ = src.Close() }() // idle connections only
			reports, err := image.InspectAll(cmd.Context(), src, args[0], sel)
			if err != nil {
				return err
			}
			for i, r := range reports {
				if asJSON {
					err = a.printJSON(r)
				} else {
					err = a.printReport(r, i > 0)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object for each platform")
	selection.add(cmd)
	store.add(cmd)
	return cmd
}

// imageTable begins a table about an image, apart from one before it.
func (a *app) imageTable(apart bool, ref, manifest, platform string) (*table, error) {
	if apart {
		if _, err := fmt.Fprintln(a.stdout); err != nil {
			return nil, err
		}
	}
	t := newTable(a.stdout)
	t.row("image", ref)
	t.row("manifest", manifest)
	t.row("platform", platform)
	return t, nil
}

func (a *app) printReport(r *image.Report, apart bool) error {
	t, err := a.imageTable(apart, r.Ref, r.Digest, r.Platform)
	if err != nil {
		return err
	}
	t.row("size", fmt.Sprintf("%s in %d layers", bytesText(r.Size), len(r.Layers)))
	t.row("lazy", map[bool]string{true: "yes", false: "not all of it"}[r.Lazy])
	t.row("cold start", fmt.Sprintf("%s in %d requests", bytesText(r.ColdBytes), r.ColdRequests))
	if err := t.flush(); err != nil {
		return err
	}
	t = newTable(a.stdout, "\nLAYER", "SIZE", "FORMAT", "LAZY", "TOC", "FILES", "CHUNKS", "MEMBERS", "PREFETCH", "")
	for _, l := range r.Layers {
		format := strings.TrimSpace(l.Format + " " + l.Dialect)
		if !l.Lazy {
			t.row(shortDigest(l.Digest), bytesText(l.Size), format, "no", "", "", "", "", "", l.Reason)
			continue
		}
		if l.Format == "soci" {
			t.row(shortDigest(l.Digest), bytesText(l.Size), format, "yes", bytesText(l.TOCSize), "", "", "", "", "")
			continue
		}
		t.row(shortDigest(l.Digest), bytesText(l.Size), format, "yes", bytesText(l.TOCSize), fmt.Sprint(l.Files), fmt.Sprint(l.Chunks), fmt.Sprint(l.Members), prefetchText(l), "")
	}
	return t.flush()
}

// prefetchText says what the landmark of a layer asks for.
func prefetchText(l image.LayerReport) string {
	if l.Landmark == "" {
		return "no landmark"
	}
	return bytesText(l.Prefetch)
}
