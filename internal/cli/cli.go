package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/spf13/cobra"
)

// The exit codes.
const (
	ExitOK = iota
	ExitFailure
	ExitUsage
	ExitVerify
	ExitUnreachable
)

// app is what the subcommands share.
type app struct {
	stdout, stderr io.Writer
	configPath     string
	state, root    string
	logLevel       string
}

// usageError marks errors of the command line itself.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Main runs the command line and returns the exit code.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr}
	root := a.command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	if _, werr := fmt.Fprintf(stderr, "nineply: %v\n", err); werr != nil {
		return ExitFailure
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var usage usageError
	var code statusError
	switch {
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		return ExitUsage
	}
	switch fserr.KindOf(err) {
	case fserr.Corrupt:
		return ExitVerify
	case fserr.Unavailable, fserr.Unauthorized:
		return ExitUnreachable
	default:
		return ExitFailure
	}
}

// statusError ends the program with a code and no further message than its own.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// command builds the whole command tree.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "nineply",
		Short: "Start containers from images that were never pulled",
		Long: `nineply serves container images as read-only file systems, lazily: a file's
bytes are fetched from the registry, verified and cached when they are first
read. Containers, virtual machines and tools on one host share one cache.`,
		Example: `  # serve images, and containerd's snapshotter plugin
  nineply daemon

  # look into an image that was never pulled
  nineply ls example.com/python:3.12 /usr/bin

  # mount it
  nineply mount example.com/python:3.12 /mnt`,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.configPath, "config", "", "configuration file (default "+config.DefaultPath+", if it exists)")
	flags.StringVar(&a.state, "state", os.Getenv("NINEPLY_STATE"), "directory of the daemon's sockets (default "+config.DefaultState+")")
	flags.StringVar(&a.logLevel, "log-level", "", "debug, info, warn or error (default: as configured)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		a.daemonCommand(), a.mountCommand(), a.umountCommand(), a.lsCommand(), a.catCommand(),
		a.statusCommand(), a.statCommand(), a.eventsCommand(), a.inspectCommand(), a.verifyCommand(), a.convertCommand(), a.optimizeCommand(), a.cacheCommand(), a.indexCommand(), a.profileCommand(), a.storeCommand(), a.doctorCommand(), a.demoCommand(), a.versionCommand(),
	)
	return root
}

// nArgs is cobra.ExactArgs with an error that says how the command is used.
func nArgs(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return usageError{fmt.Errorf("usage: %s", cmd.UseLine())}
		}
		return nil
	}
}

// config loads the configuration: defaults, then the file, then flags.
func (a *app) config() (config.Config, error) {
	pick := func(flag, def string) string {
		if flag != "" {
			return flag
		}
		return def
	}
	places := config.PlacesFor(os.Geteuid(), os.Getenv)
	c, err := config.Load(places.Defaults(a.root, a.state), pick(a.configPath, places.Config), a.configPath == "")
	if err != nil {
		return c, usageError{err}
	}
	if a.state != "" && c.State != a.state || a.root != "" && c.Root != a.root {
		return c, usageError{fmt.Errorf("--state and --root contradict the configuration file, which has root %s and state %s", c.Root, c.State)}
	}
	if a.logLevel != "" {
		c.Log.Level = a.logLevel
	}
	if err := c.Validate(); err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// printJSON writes one JSON object on one line.
func (a *app) printJSON(v any) error {
	if err := json.NewEncoder(a.stdout).Encode(v); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

var version string // set by the linker (-X), see the Makefile

// Version says what this binary was built from.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version", Args: nArgs(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return a.printJSON(map[string]string{"version": Version()})
			}
			_, err := fmt.Fprintln(a.stdout, "nineply", Version())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}
