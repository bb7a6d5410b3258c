package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/profile"
	"github.com/spf13/cobra"
)

// pathsFormat is an export of nothing but paths, for convert --prefetch-list.
const pathsFormat = "paths"

func (a *app) profileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "profile", Short: "Show and share what images read when they start",
		Long: `The daemon notes which parts of which files an image reads first, in what order,
whenever the image is used: that is its profile. At the next start with a cold cache
the daemon asks for exactly these parts, in that order, in a few large requests and
before they are read. Nothing has to be set up for that, and the image does not
change.

A profile can be pushed beside its image, for nodes that have never run it. They use
it if their configuration says so ([profiles] referrers), or if it was pulled there
by hand. It is a hint: the worst that a wrong one does is to have parts of the image
fetched that are not read.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{fmt.Errorf("usage: %s ls|show|export|import|push|pull|rm", cmd.CommandPath())}
		},
	}
	cmd.AddCommand(
		a.profileListCommand(), a.profileShowCommand(), a.profileExportCommand(), a.profileImportCommand(),
		a.profilePushCommand(), a.profilePullCommand(), a.profileRemoveCommand(),
	)
	return cmd
}

// withClient runs fn with a connection to the daemon.
func (a *app) withClient(fn func(*control.Client) error) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	return fn(client)
}

func (a *app) profileListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Short: "List the profiles that the daemon has", Args: nArgs(0, 0),
		Example: `  nineply profile ls
  nineply profile ls --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *control.Client) error {
				list, err := c.Profiles(cmd.Context())
				if err != nil {
					return err
				}
				return a.printProfiles(list, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object for each profile")
	return cmd
}

func (a *app) printProfiles(list []control.Profile, asJSON bool) error {
	if asJSON {
		for _, p := range list {
			if err := a.printJSON(p); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable(a.stdout, "MANIFEST", "RUNS", "CHUNKS", "BYTES", "SIZE", "CHANGED", "ORIGIN", "IMAGE")
	for _, p := range list {
		origin := p.Origin
		if origin == "" {
			origin = "recorded here"
		}
		t.row(shortDigest(p.Manifest), fmt.Sprint(p.Runs), fmt.Sprint(p.Chunks), bytesText(p.Bytes), bytesText(p.Size), p.Changed.Format(time.DateTime), origin, p.Ref)
	}
	return t.flush()
}

func (a *app) profileShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show IMAGE", Short: "Show which files an image reads when it starts", Args: nArgs(1, 1),
		Long: `show lists the files of which IMAGE read something when it was started, in the order
of their first reads. Files that fewer than half of the runs read are marked: they are
not fetched in advance.`,
		Example: `  nineply profile show example.com/python:3.12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *control.Client) error {
				d, err := c.Profile(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(d)
				}
				return a.printProfile(d)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (a *app) printProfile(d control.ProfileDetail) error {
	if _, err := fmt.Fprintf(a.stdout, "%s\n%d runs, %d chunks, %s\n", d.Manifest, d.Runs, d.Chunks, bytesText(d.Bytes)); err != nil {
		return err
	}
	t := newTable(a.stdout, "\nAT", "BYTES", "LAYER", "RUNS", "FILE", "")
	for _, f := range d.Files {
		note := ""
		if !f.Usual {
			note = "not fetched in advance"
		}
		t.row(f.At.String(), bytesText(f.Bytes), fmt.Sprint(f.Layer), fmt.Sprint(f.Runs), f.Path, note)
	}
	return t.flush()
}

func (a *app) profileExportCommand() *cobra.Command {
	var format, output string
	cmd := &cobra.Command{
		Use: "export IMAGE", Short: "Write the profile of an image to a file", Args: nArgs(1, 1),
		Long: `export writes a profile: as the file that import takes, without loss (profile); as
the files in their order, one JSON object on each line, as stargz-snapshotter's
ctr-remote records them (records); or as nothing but paths, for convert
--prefetch-list (paths).`,
		Example: `  nineply profile export example.com/python:3.12 -o python.profile
  nineply profile export example.com/python:3.12 --format paths -o files.txt
  nineply convert example.com/python:3.12 example.com/python:lazy --prefetch-list files.txt`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *control.Client) error {
				data, err := exportProfile(cmd, c, args[0], format)
				if err != nil {
					return err
				}
				return a.writeOut(output, data, format == control.ProfileFormat)
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", control.ProfileFormat, "profile, records or paths")
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write (default: standard output)")
	return cmd
}

func exportProfile(cmd *cobra.Command, c *control.Client, name, format string) ([]byte, error) {
	ask := format
	switch format {
	case control.ProfileFormat, control.RecordsFormat:
	case pathsFormat:
		ask = control.RecordsFormat
	default:
		return nil, usageError{fmt.Errorf("--format: %q is none of profile, records, paths", format)}
	}
	out, err := c.ExportProfile(cmd.Context(), name, ask)
	if err != nil || format != pathsFormat {
		return out.Data, err
	}
	records, err := profile.ReadRecords(strings.NewReader(string(out.Data)))
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for _, r := range records {
		text.WriteString(r.Path + "\n")
	}
	return []byte(text.String()), nil
}

// writeOut writes to a file, or to standard output, but nothing binary to a
// terminal.
func (a *app) writeOut(path string, data []byte, binary bool) error {
	switch {
	case path != "":
		if err := os.WriteFile(path, data, 0o644); err != nil { //nolint:gosec // nothing in it is secret
			return fmt.Errorf("export: %w", err)
		}
		return nil
	case binary && isTerminal(a.stdout):
		return usageError{errors.New("a profile is not for a terminal: name a file with -o")}
	}
	_, err := a.stdout.Write(data)
	return err
}

func (a *app) profileImportCommand() *cobra.Command {
	var asJSON bool
	var image string
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Take over a profile from a file", Args: nArgs(1, 1),
		Long: `import has the daemon take over a profile that export wrote, in the place of the one
it has. With --image, FILE is a list of files in their order instead: JSON lines as
export --format records and ctr-remote's --record-out write them. "-" is standard
input.`,
		Example: `  nineply profile import python.profile
  nineply profile import --image example.com/python:3.12 record.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := readIn(cmd, args[0])
			if err != nil {
				return err
			}
			in := control.ProfileData{Name: image, Format: control.ProfileFormat, Data: data}
			if image != "" {
				in.Format = control.RecordsFormat
			}
			return a.withClient(func(c *control.Client) error {
				p, err := c.ImportProfile(cmd.Context(), in)
				if err != nil {
					return err
				}
				return a.printProfiles([]control.Profile{p}, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.Flags().StringVar(&image, "image", "", "FILE is a list of files of this image")
	return cmd
}

// maxImport bounds what is read of a file, bytes.
const maxImport = 10 << 20

func readIn(cmd *cobra.Command, path string) ([]byte, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("import: %w", err)
		}
		defer func() { _ = f.Close() }() // only read from
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxImport+1))
	if err == nil && len(data) > maxImport {
		err = fmt.Errorf("more than %d bytes", maxImport)
	}
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", path, err)
	}
	return data, nil
}

func (a *app) profilePushCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "push IMAGE", Short: "Push the profile of an image beside it", Args: nArgs(1, 1),
		Long: `push has the daemon write the profile of IMAGE into the image's repository, as an OCI
artifact that refers to the image's manifest: found by the referrers API, or by the
tag sha256-<hex> where the registry has none. The image and its digest stay. It prints
the digest of the artifact.`,
		Example: `  nineply profile push example.com/python:3.12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *control.Client) error {
				p, err := c.PushProfile(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(p)
				}
				_, err = fmt.Fprintf(a.stdout, "%s\n%s beside %s\n", p.Digest, bytesText(p.Size), p.Ref)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (a *app) profilePullCommand() *cobra.Command {
	var asJSON bool
	var digest string
	cmd := &cobra.Command{
		Use: "pull IMAGE", Short: "Take over the profile that lies beside an image", Args: nArgs(1, 1),
		Long: `pull has the daemon take over a profile that refers to IMAGE, in the place of the one
it has: the newest there is, or the one with the digest given.`,
		Example: `  nineply profile pull example.com/python:3.12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *control.Client) error {
				p, err := c.PullProfile(cmd.Context(), control.ProfileRequest{Ref: args[0], Digest: digest})
				if err != nil {
					return err
				}
				return a.printProfiles([]control.Profile{p}, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.Flags().StringVar(&digest, "digest", "", "digest of the artifact, as push printed it")
	return cmd
}

func (a *app) profileRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE", Short: "Remove the profile of an image", Args: nArgs(1, 1),
		Long: `rm removes what the daemon knows of the starts of IMAGE, a reference or a manifest
digest. What was pushed into a registry is not touched.`,
		Example: `  nineply profile rm example.com/python:3.12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *control.Client) error { return c.RemoveProfile(cmd.Context(), args[0]) })
		},
	}
}
