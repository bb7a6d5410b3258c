package cli

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/spf13/cobra"
)

func (a *app) verifyCommand() *cobra.Command {
	var asJSON bool
	var selection selectionFlags
	var store containerdFlags
	cmd := &cobra.Command{
		Use: "verify IMAGE", Short: "Read all of an image and check every digest there is", Args: nArgs(1, 1),
		Long: `verify reads every byte of an image's layers, once and as a stream, and checks

  the blob against the digest in the manifest,
  the tar in it against the diff ID in the config,
  the table of contents against its digest in the manifest,
  every chunk that the table of contents lists against its digest,
  every entry of the tar against the table of contents: content and metadata.

It says which chunk or file is wrong and exits with 3 if anything is. IMAGE is a
reference, oci:/path:tag, oci-archive:/path.tar:tag or containerd:IMAGE. No daemon
is needed.`,
		Example: `  nineply verify example.com/python:3.12-lazy
  nineply verify --all-platforms oci:/srv/images/python:3.12 --json`,
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
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			var done func(image.LayerVerdict)
			if isTerminal(a.stderr) {
				done = func(l image.LayerVerdict) {
					_, _ = fmt.Fprintf(a.stderr, "%s read: %s\n", shortDigest(l.Digest), verdictText(l.OK))
				}
			}
			verdicts, err := image.Verify(ctx, src, args[0], sel, done)
			if err != nil {
				return err
			}
			return a.printVerdicts(args[0], verdicts, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object for each platform")
	selection.add(cmd)
	store.add(cmd)
	return cmd
}

func verdictText(ok bool) string {
	if ok {
		return "ok"
	}
	return "WRONG"
}

// printVerdicts prints all and fails if one is bad.
func (a *app) printVerdicts(ref string, verdicts []*image.Verdict, asJSON bool) error {
	problems := 0
	for i, v := range verdicts {
		for _, l := range v.Layers {
			problems += len(l.Problems) + l.MoreProblems
		}
		var err error
		if asJSON {
			err = a.printJSON(v)
		} else {
			err = a.printVerdict(v, i > 0)
		}
		if err != nil {
			return err
		}
	}
	if problems > 0 {
		return fserr.Newf(fserr.Corrupt, "verify", ref, "%d problems", problems)
	}
	return nil
}

func (a *app) printVerdict(v *image.Verdict, apart bool) error {
	t, err := a.imageTable(apart, v.Ref, v.Digest, v.Platform)
	if err != nil {
		return err
	}
	t.row("verified", verdictText(v.OK))
	if err := t.flush(); err != nil {
		return err
	}
	t = newTable(a.stdout, "\nLAYER", "SIZE", "FORMAT", "TAR", "ENTRIES", "CHUNKS", "")
	for _, l := range v.Layers {
		chunks := "no TOC"
		if l.TOC {
			chunks = fmt.Sprint(l.Chunks)
		}
		t.row(shortDigest(l.Digest), bytesText(l.Size), strings.TrimSpace(l.Format+" "+l.Dialect), bytesText(l.Bytes), fmt.Sprint(l.Entries), chunks, verdictText(l.OK))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, l := range v.Layers {
		for _, p := range l.Problems {
			if _, err := fmt.Fprintf(a.stdout, "\n%s: %s", shortDigest(l.Digest), p); err != nil {
				return err
			}
		}
		if l.MoreProblems > 0 {
			if _, err := fmt.Fprintf(a.stdout, "\n%s: %d more problems", shortDigest(l.Digest), l.MoreProblems); err != nil {
				return err
			}
		}
	}
	if !v.OK {
		_, err := fmt.Fprintln(a.stdout)
		return err
	}
	return nil
}
