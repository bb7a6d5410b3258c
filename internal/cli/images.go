package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/platforms"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/daemon"
	"github.com/nineply/nineply/internal/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

// platform reads a --platform flag; "" is this machine's.
func platform(text string) (ocispec.Platform, error) {
	if text == "" {
		return platforms.DefaultSpec(), nil
	}
	p, err := platforms.Parse(text)
	if err != nil {
		return p, usageError{fmt.Errorf("--platform: %w", err)}
	}
	return p, nil
}

func (a *app) inspectCommand() *cobra.Command {
	var asJSON bool
	var platformText string
	cmd := &cobra.Command{
		Use: "inspect IMAGE", Short: "Show an image's layers, and whether each is lazy or why not", Args: nArgs(1, 1),
		Long: `inspect asks the registry (or reads an OCI layout, oci:/path:tag) and needs no
daemon. It reads manifests and tables of contents only.`,
		Example: `  nineply inspect example.com/python:3.12
  nineply inspect oci:/srv/images/python:3.12 --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			p, err := platform(platformText)
			if err != nil {
				return err
			}
			src := daemon.Sources(c)
			defer func() { _ = src.Close() }() // idle connections only
			report, err := image.Inspect(cmd.Context(), src, args[0], p)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(report)
			}
			return a.printReport(report)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.Flags().StringVar(&platformText, "platform", "", "os/arch[/variant] of a multi-platform image (default: this machine's)")
	return cmd
}

func (a *app) printReport(r *image.Report) error {
	t := newTable(a.stdout)
	t.row("image", r.Ref)
	t.row("manifest", r.Digest)
	t.row("platform", r.Platform)
	t.row("size", fmt.Sprintf("%s in %d layers", bytesText(r.Size), len(r.Layers)))
	t.row("lazy", map[bool]string{true: "yes", false: "not all of it"}[r.Lazy])
	if err := t.flush(); err != nil {
		return err
	}
	t = newTable(a.stdout, "\nLAYER", "SIZE", "LAZY", "TOC", "FILES", "CHUNKS", "PREFETCH", "")
	for _, l := range r.Layers {
		if !l.Lazy {
			t.row(shortDigest(l.Digest), bytesText(l.Size), "no", "", "", "", "", l.Reason)
			continue
		}
		t.row(shortDigest(l.Digest), bytesText(l.Size), "yes", bytesText(l.TOCSize), fmt.Sprint(l.Files), fmt.Sprint(l.Chunks), bytesText(l.Prefetch), "")
	}
	return t.flush()
}

// convertFlags are the flags of convert.
type convertFlags struct {
	asJSON               bool
	platform, prefetch   string
	chunkSize, minMember string
	level                int
}

func (a *app) convertCommand() *cobra.Command {
	var f convertFlags
	cmd := &cobra.Command{
		Use: "convert SRC DST", Short: "Write an image again as eStargz, so that it is lazy", Args: nArgs(2, 2),
		Long: `convert reads SRC and writes it to DST with every layer as eStargz: a tar.gz that
any container engine can still pull, and that can be read lazily. SRC and DST are
references or OCI layout directories (oci:/path:tag). No daemon and no container
engine is needed. The tag is written last.

The new image has other digests than the old one: signatures do not carry over.`,
		Example: `  nineply convert example.com/python:3.12 example.com/python:3.12-lazy
  nineply convert oci:./python:3.12 127.0.0.1:5000/python:lazy --prefetch-list files.txt`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.convert(cmd, f, args[0], args[1]) },
	}
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print one JSON object")
	cmd.Flags().StringVar(&f.platform, "platform", "", "os/arch[/variant] of a multi-platform image (default: this machine's)")
	cmd.Flags().StringVar(&f.prefetch, "prefetch-list", "", "file with one path per line, to be fetched first when the image is used")
	cmd.Flags().StringVar(&f.chunkSize, "chunk-size", "", "largest chunk of a file (default 1MiB)")
	cmd.Flags().StringVar(&f.minMember, "min-member-size", "", "small files share a gzip member of this size")
	cmd.Flags().IntVar(&f.level, "level", 0, "gzip level, 1 to 9 (default 6)")
	return cmd
}

func (a *app) convert(cmd *cobra.Command, f convertFlags, src, dst string) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	opts, err := f.options()
	if err != nil {
		return err
	}
	from := daemon.Sources(c)
	defer func() { _ = from.Close() }() // idle connections only
	opts.Progress = func(e convert.Event) {
		_, _ = fmt.Fprintf(a.stderr, "layer %d of %d: %s, %s -> %s\n", e.Index+1, e.Layers, shortDigest(e.Source.String()), bytesText(e.SourceSize), bytesText(e.NewSize))
	}
	res, err := convert.Convert(cmd.Context(), from, src, from, dst, opts)
	if err != nil {
		return err
	}
	if f.asJSON {
		return a.printJSON(res)
	}
	_, err = fmt.Fprintf(a.stdout, "%s@%s\n%s -> %s; digests changed, signatures of the source do not cover it\n", res.Ref, res.Digest, bytesText(res.SourceSize), bytesText(res.Size))
	return err
}

func (f convertFlags) options() (convert.Options, error) {
	var opts convert.Options
	var err error
	if opts.Platform, err = platform(f.platform); err != nil {
		return opts, err
	}
	w := estargz.WriterOptions{Level: f.level}
	for flag, s := range map[string]struct {
		text string
		into *int64
	}{"--chunk-size": {f.chunkSize, &w.ChunkSize}, "--min-member-size": {f.minMember, &w.MinMemberSize}} {
		if s.text == "" {
			continue
		}
		size, err := config.ParseSize(s.text)
		if err != nil {
			return opts, usageError{fmt.Errorf("%s: %w", flag, err)}
		}
		*s.into = int64(size)
	}
	if f.prefetch != "" {
		if w.Prioritized, err = readLines(f.prefetch); err != nil {
			return opts, fmt.Errorf("--prefetch-list: %w", err)
		}
	}
	opts.Writer = w
	return opts, nil
}

// readLines reads the lines of a file that are not empty.
func readLines(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // read side
	var lines []string
	sc := bufio.NewScanner(file)
	for sc.Scan() {
		if line := strings.TrimSpace(sc.Text()); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, sc.Err()
}
