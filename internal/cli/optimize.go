package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/optimize"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// optimizeFlags are the flags of optimize.
type optimizeFlags struct {
	convertFlags
	run       runFlags
	profile   string
	recordOut string
	private   bool
	rewrite   bool
}

func (a *app) optimizeCommand() *cobra.Command {
	var f optimizeFlags
	cmd := &cobra.Command{
		Use: "optimize SRC DST [flags] [-- COMMAND...]", Short: "Write an image again with what it reads first in front",
		Args: optimizeArgs,
		Long: `optimize writes SRC to DST with the files that a start reads at the front of their
layers, in the order in which they are read, and a landmark behind them: whoever
reads the image lazily, Nineply or another, fetches them in one piece before they
are asked for. SRC and DST are named as for convert.

Which files those are, it learns from

  --run                the image's own command, run for at most --period
  -- COMMAND...        the image's entry point with this in the place of its Cmd
  --profile FILE       a profile or a list of files, in any format that
                       "nineply profile export" or ctr-remote --record-out write
  none of these        the profile that the running daemon has of SRC, or else
                       one that lies beside SRC in the registry

To run the image, it is mounted lazily through the running daemon, or through one of
its own if there is none or the image is in use there, and started with runc or crun
in namespaces of its own. What it writes is thrown away. That needs root. A command
that fails is an error, and nothing is written then.

Layers that have the format and the order already are copied.`,
		Example: `  nineply optimize example.com/python:3.12 example.com/python:fast -- /app/main.py
  nineply optimize --run --period 20s --env MODE=demo example.com/app:1 example.com/app:1-fast
  nineply optimize --profile python.profile example.com/python:3.12 example.com/python:fast
  nineply optimize example.com/app:1 example.com/app:1-fast --format zstd:chunked`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.run.command = nil
			if at := cmd.ArgsLenAtDash(); at >= 0 {
				f.run.command, args = args[at:], args[:at]
			}
			return a.optimize(cmd, f, args[0], args[1])
		},
	}
	f.shared(cmd)
	f.run.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.profile, "profile", "", "file with a profile, with files as JSON lines, or with one path on each line; \"-\" is standard input")
	flags.StringVar(&f.recordOut, "record-out", "", "file to write the order to, as JSON lines for convert --record-in and ctr-remote")
	flags.BoolVar(&f.private, "private", false, "leave the running daemon alone")
	flags.BoolVar(&f.rewrite, "rewrite", false, "write layers anew even if they have the format and the order")
	return cmd
}

// optimizeArgs wants two references before a command.
func optimizeArgs(cmd *cobra.Command, args []string) error {
	n := len(args)
	if at := cmd.ArgsLenAtDash(); at >= 0 {
		n = at
	}
	if n != 2 {
		return usageError{fmt.Errorf("usage: %s", cmd.UseLine())}
	}
	return nil
}

func (a *app) optimize(cmd *cobra.Command, f optimizeFlags, src, dst string) error {
	o, err := f.options(cmd)
	if err != nil {
		return err
	}
	ctx, enough, stop := interrupts(cmd.Context(), f.run.waitOnSignal)
	defer stop()
	if o.Run != nil {
		o.Run.Output, o.Run.Enough = a.stderr, enough
	}
	o.Source, o.Target, o.Log = src, dst, quietLog(a.stderr)
	if o.Config, err = a.config(); err != nil {
		return err
	}
	all, err := a.sources(f.containerd)
	if err != nil {
		return err
	}
	defer func() { _ = all.Close() }() // idle connections only
	if !f.rewrite {
		w := o.Convert.Writer
		wanted := image.Wanted{Zstd: w.Format == estargz.FormatZstdChunked, Containers: w.Dialect == estargz.DialectContainers, ChunkSize: w.ChunkSize}
		o.Convert.Reusable = wanted.Check(all)
	}
	if !f.quiet {
		o.Progress = func(words string) { _, _ = fmt.Fprintln(a.stderr, words) }
	}
	res, err := optimize.Optimize(ctx, all, o)
	if err != nil {
		return err
	}
	if f.recordOut != "" {
		if err := a.writeOut(f.recordOut, res.Records, false); err != nil {
			return err
		}
	}
	return a.printOptimization(f, res)
}

// interrupts gives a context that a signal cancels, as a failure would. With spare
// the first signal closes enough instead.
func interrupts(parent context.Context, spare bool) (ctx context.Context, enough chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals, enough := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			if n == 0 && spare {
				close(enough)
				continue
			}
			cancel()
		}
	}()
	return ctx, enough, func() {
		signal.Stop(signals)
		cancel()
		<-ended
	}
}

func (f *optimizeFlags) options(cmd *cobra.Command) (o optimize.Options, err error) {
	if o.Convert, err = f.convertFlags.options(); err != nil {
		return o, err
	}
	o.TempDir, o.Private = f.tempDir, f.private
	if o.Run, err = f.run.options(); err != nil {
		return o, err
	}
	if f.profile == "" {
		return o, nil
	}
	if o.Run != nil {
		return o, usageError{errors.New("--profile says what is read: it does not go with --run or a command")}
	}
	o.List, err = readIn(cmd, f.profile)
	return o, err
}

func (a *app) printOptimization(f optimizeFlags, res optimize.Result) error {
	if f.asJSON {
		return a.printJSON(res)
	}
	if _, err := fmt.Fprintf(a.stdout, "%s@%s\n", res.Ref, res.Digest); err != nil {
		return err
	}
	if f.quiet {
		return nil
	}
	t := newTable(a.stderr, "LAYER", "SIZE", "FILES FIRST", "BEFORE LANDMARK", "")
	for _, img := range res.Images {
		for _, l := range img.Layers {
			what := "written anew"
			if l.Reused {
				what = "kept"
			}
			t.row(shortDigest(l.Digest.String()), bytesText(l.Size), fmt.Sprint(l.First), bytesText(l.Prefetch), what)
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	lines := []string{fmt.Sprintf("%d of %d layers written anew, %d files first, %s before the landmarks; %s -> %s",
		res.Rewritten, res.Layers, res.First, bytesText(res.Prefetch), bytesText(res.SourceSize), bytesText(res.Size))}
	if len(res.LargeFiles) > 0 {
		lines = append(lines, "large files of which little was read stay where they are: "+strings.Join(res.LargeFiles, ", "))
	}
	if len(res.NotFound) > 0 {
		lines = append(lines, fmt.Sprintf("to come first, but in no layer: %s", strings.Join(res.NotFound, ", ")))
	}
	_, err := fmt.Fprintln(a.stderr, strings.Join(append(lines, res.Notes...), "\n"))
	return err
}

// quietLog shows what a daemon within this process warns of.
func quietLog(w interface{ Write(p []byte) (int, error) }) *zap.Logger {
	enc := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{MessageKey: "m", NameKey: "n", LineEnding: "\n", EncodeName: zapcore.FullNameEncoder})
	return zap.New(zapcore.NewCore(enc, zapcore.Lock(zapcore.AddSync(w)), zapcore.WarnLevel))
}
