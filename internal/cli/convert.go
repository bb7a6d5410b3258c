package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/optimize"
	"github.com/spf13/cobra"
)

// convertFlags are the flags of convert.
type convertFlags struct {
	asJSON, quiet        bool
	selection            selectionFlags
	containerd           containerdFlags
	format, dialect      string
	prefetch, recordIn   string
	chunkSize, minMember string
	level                int
	keepDiffID, reuse    bool
	keepAttestations     bool
	tempDir              string
	parallel             int
}

func (a *app) convertCommand() *cobra.Command {
	var f convertFlags
	cmd := &cobra.Command{
		Use: "convert SRC DST", Short: "Write an image again so that it is lazy", Args: nArgs(2, 2),
		Long: `convert reads SRC and writes it to DST with every layer in a format that can be
read lazily, and that a container engine can still pull as a whole. SRC and DST
are each one of

  example.com/app:1                 in a registry
  oci:/path:tag                     an OCI image layout directory
  oci-archive:/path.tar:tag         a tar file of one
  containerd:example.com/app:1      in the store of a containerd; the namespace can
                                    be given as containerd://NAMESPACE/IMAGE

No daemon and no container engine is needed. An image that cannot be converted is
refused before anything is pushed, and the tag is written last. Until then the
converted layers lie in the temporary directory (--temp-dir, TMPDIR), which needs
room for all of them.

The formats are estargz (tar.gz, for every engine) and zstd:chunked (smaller and
faster, for engines of 2022 and later), which has two dialects: that of
stargz-snapshotter and that of Podman, CRI-O and Buildah (containers).

The new image has other digests than the old one: signatures do not carry over.
With --keep-diff-id the config and the image ID stay; the tables of contents of
estargz then go into an image of their own, DST with "-esgztoc" behind its tag.`,
		Example: `  nineply convert example.com/python:3.12 example.com/python:3.12-lazy
  nineply convert --all-platforms --format zstd:chunked example.com/app:1 example.com/app:1-zst
  nineply convert oci:./python:3.12 127.0.0.1:5000/python:lazy --prefetch-list files.txt
  nineply convert containerd://k8s.io/example.com/app:1 oci-archive:app.tar:1`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.convert(cmd, f, args[0], args[1]) },
	}
	f.shared(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.prefetch, "prefetch-list", "", "file with one path per line, to be fetched first when the image is used")
	flags.StringVar(&f.recordIn, "record-in", "", "file with the same as JSON lines that say which layer is meant, as optimize --record-out, profile export --format records and ctr-remote write them")
	flags.BoolVar(&f.keepDiffID, "keep-diff-id", false, "do not change what a layer decompresses to, so that the config stays")
	flags.BoolVar(&f.reuse, "reuse", false, "copy layers that have the format already")
	return cmd
}

// shared adds the flags that all commands have which write an image again.
func (f *convertFlags) shared(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.asJSON, "json", false, "print one JSON object")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "no progress, and no notes on standard error")
	flags.StringVar(&f.format, "format", "estargz", "estargz or zstd:chunked")
	flags.StringVar(&f.dialect, "dialect", "stargz", "of zstd:chunked: stargz or containers")
	flags.StringVar(&f.chunkSize, "chunk-size", "", "largest chunk of a file (default 1MiB)")
	flags.StringVar(&f.minMember, "min-member-size", "", "small files are compressed together up to this size")
	flags.IntVar(&f.level, "level", 0, "compression level, 1 to 9 (default: the format's)")
	flags.BoolVar(&f.keepAttestations, "keep-attestations", false, "copy the attestations of an index")
	flags.StringVar(&f.tempDir, "temp-dir", "", "where the converted layers lie until they are pushed (default: TMPDIR)")
	flags.IntVar(&f.parallel, "parallel", 0, "layers to convert at once (default 2)")
	f.selection.add(cmd)
	f.containerd.add(cmd)
}

func (a *app) convert(cmd *cobra.Command, f convertFlags, src, dst string) error {
	opts, err := f.options()
	if err != nil {
		return err
	}
	all, err := a.sources(f.containerd)
	if err != nil {
		return err
	}
	defer func() { _ = all.Close() }() // idle connections only
	if f.reuse {
		wanted := image.Wanted{Zstd: opts.Writer.Format == estargz.FormatZstdChunked, Containers: opts.Writer.Dialect == estargz.DialectContainers, ChunkSize: opts.Writer.ChunkSize}
		opts.Reusable = wanted.Check(all)
	}
	var p *progress
	if isTerminal(a.stderr) && !f.quiet {
		p = &progress{w: a.stderr}
		opts.Progress = p.event
	}
	// An interrupt ends the conversion as a failure does: everything is undone.
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	res, err := convert.Convert(ctx, all, src, all, dst, opts)
	if p != nil {
		p.end()
	}
	if err != nil {
		return err
	}
	return a.printConversion(f, res)
}

func (a *app) printConversion(f convertFlags, res convert.Result) error {
	if f.asJSON {
		return a.printJSON(res)
	}
	if _, err := fmt.Fprintf(a.stdout, "%s@%s\n", res.Ref, res.Digest); err != nil {
		return err
	}
	if res.TOCRef != "" {
		if _, err := fmt.Fprintf(a.stdout, "%s@%s\n", res.TOCRef, res.TOCDigest); err != nil {
			return err
		}
	}
	if f.quiet {
		return nil
	}
	lines := []string{fmt.Sprintf("%s -> %s", bytesText(res.SourceSize), bytesText(res.Size))}
	if len(res.NotFound) > 0 {
		lines = append(lines, fmt.Sprintf("on the prefetch list, but in no layer: %s", strings.Join(res.NotFound, ", ")))
	}
	_, err := fmt.Fprintln(a.stderr, strings.Join(append(lines, res.Notes...), "\n"))
	return err
}

func (f convertFlags) options() (convert.Options, error) {
	opts := convert.Options{KeepAttestations: f.keepAttestations, TempDir: f.tempDir, Parallel: f.parallel}
	var err error
	if opts.Select, err = f.selection.read(); err != nil {
		return opts, err
	}
	w := &opts.Writer
	w.Level, w.KeepDiffID, w.TempDir = f.level, f.keepDiffID, f.tempDir
	if err := f.formats(w); err != nil {
		return opts, usageError{err}
	}
	for _, s := range []struct {
		flag, text string
		into       *int64
	}{{"--chunk-size", f.chunkSize, &w.ChunkSize}, {"--min-member-size", f.minMember, &w.MinMemberSize}} {
		if s.text == "" {
			continue
		}
		size, err := config.ParseSize(s.text)
		if err != nil {
			return opts, usageError{fmt.Errorf("%s: %w", s.flag, err)}
		}
		*s.into = int64(size)
	}
	return opts, f.order(&opts)
}

// order reads what is to come first. Records say for which layer, paths do not.
func (f convertFlags) order(opts *convert.Options) error {
	flag, path := "--prefetch-list", f.prefetch
	if f.recordIn != "" {
		flag, path = "--record-in", f.recordIn
	}
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	records, err := optimize.ReadList(data)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", flag, path, err)
	}
	layers := false
	for _, r := range records {
		layers = layers || r.ManifestDigest != "" || r.LayerIndex != nil
		opts.Writer.Prioritized = append(opts.Writer.Prioritized, r.Path)
	}
	if layers {
		opts.Order = optimize.NewOrder(records).Layer
	}
	return nil
}

// formats reads --format and --dialect, and refuses what does not go together.
func (f convertFlags) formats(w *estargz.WriterOptions) error {
	switch f.format {
	case "estargz":
		if f.dialect != "stargz" {
			return errors.New("--dialect is for --format zstd:chunked")
		}
	case "zstd:chunked":
		w.Format = estargz.FormatZstdChunked
	default:
		return fmt.Errorf("--format: %q is neither estargz nor zstd:chunked", f.format)
	}
	switch f.dialect {
	case "stargz":
	case "containers":
		w.Dialect = estargz.DialectContainers
	default:
		return fmt.Errorf("--dialect: %q is neither stargz nor containers", f.dialect)
	}
	if f.keepDiffID && f.prefetch+f.recordIn != "" {
		return errors.New("--keep-diff-id leaves the order of a layer alone: it does not go with --prefetch-list or --record-in")
	}
	if f.prefetch != "" && f.recordIn != "" {
		return errors.New("--prefetch-list and --record-in exclude each other")
	}
	return nil
}

// progress shows on a terminal how far a conversion is.
type progress struct {
	w     io.Writer
	mu    sync.Mutex
	shown bool
}

func (p *progress) event(e convert.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	what := "converted"
	switch {
	case e.Pushed:
		what = "pushed"
	case e.Reused:
		what = "kept"
	}
	p.shown = true
	_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s layer %d of %d: %s, %s -> %s", what, e.Index+1, e.Layers, shortDigest(e.Source.String()), bytesText(e.SourceSize), bytesText(e.NewSize))
}

// end leaves the line for what is printed next.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
	}
}
