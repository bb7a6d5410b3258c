package cli

import (
	"fmt"

	"github.com/nineply/nineply/internal/control"
	"github.com/spf13/cobra"
)

func (a *app) indexCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "index", Short: "Share what makes plain images lazy",
		Long: `A layer that is a plain tar or tar.gz is read whole the first time, and leaves an
index behind: where its files are, the digests of their pieces, and places where
decompression can start. With it the layer is lazy from then on, on this node. Pushed
beside its image, the index makes the image lazy on other nodes too, without any
change to the image.

An index says which files an image has and what they are. Who can push into the
repository can push an index, so other nodes use one only if their configuration
says so ([index] referrers or pins), or if it was pulled there by hand.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{fmt.Errorf("usage: %s push|pull|ls|rm", cmd.CommandPath())}
		},
	}
	cmd.AddCommand(a.indexPushCommand(), a.indexPullCommand(), a.indexListCommand(), a.indexRemoveCommand())
	return cmd
}

func (a *app) indexPushCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "push IMAGE", Short: "Push the index of an image beside it", Args: nArgs(1, 1),
		Long: `push has the daemon write the index of IMAGE into the image's repository, as an OCI
artifact that refers to the image's manifest: found by the referrers API, or by the
tag sha256-<hex> where the registry has none. Layers that need an index and have
none here are read whole first. It prints the digest of the index, for other nodes
to pin.`,
		Example: `  nineply index push example.com/python:3.12
  nineply index push example.com/python:3.12 --json | jq -r .digest`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.publishIndex(asJSON, func(c *control.Client) (control.PublishedIndex, error) {
				return c.PushIndex(cmd.Context(), args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (a *app) indexPullCommand() *cobra.Command {
	var asJSON bool
	var digest string
	cmd := &cobra.Command{
		Use: "pull IMAGE", Short: "Take over the index that lies beside an image", Args: nArgs(1, 1),
		Long: `pull has the daemon fetch an index that refers to IMAGE, Nineply's own or one of
SOCI, check it and use it for this image from now on: the newest there is, or the one
with the digest given. It trusts who pushed the index with what is in the image.
Layers that this node has read whole, or that have a table of contents inside, do
without. It prints the digest of the index.`,
		Example: `  nineply index pull example.com/python:3.12
  nineply index pull example.com/python:3.12 --digest sha256:0e3a...`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.publishIndex(asJSON, func(c *control.Client) (control.PublishedIndex, error) {
				return c.PullIndex(cmd.Context(), control.IndexRequest{Ref: args[0], Digest: digest})
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.Flags().StringVar(&digest, "digest", "", "digest of the index, as push printed it")
	return cmd
}

// publishIndex prints an index that was pushed or pulled.
func (a *app) publishIndex(asJSON bool, do func(*control.Client) (control.PublishedIndex, error)) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	p, err := do(client)
	if err != nil {
		return err
	}
	if asJSON {
		return a.printJSON(p)
	}
	if _, err := fmt.Fprintf(a.stdout, "%s\n%s beside %s\n", p.Digest, bytesText(p.Size), p.Ref); err != nil {
		return err
	}
	t := newTable(a.stdout, "\nLAYER", "INDEX", "")
	for _, l := range p.Layers {
		size := "-"
		if l.Size > 0 {
			size = bytesText(l.Size)
		}
		t.row(shortDigest(l.Digest), size, l.Reason)
	}
	return t.flush()
}

func (a *app) indexListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls [IMAGE]", Short: "List the indexes that the daemon has", Args: nArgs(0, 1),
		Example: `  nineply index ls
  nineply index ls example.com/python:3.12 --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			list, err := client.Indexes(cmd.Context(), first(args))
			if err != nil {
				return err
			}
			if asJSON {
				for _, x := range list {
					if err := a.printJSON(x); err != nil {
						return err
					}
				}
				return nil
			}
			t := newTable(a.stdout, "LAYER", "FORMAT", "SIZE", "INDEX", "ORIGIN", "IMAGE")
			for _, x := range list {
				origin := x.Origin
				if x.Refused != "" {
					origin += " (not used: " + x.Refused + ")"
				}
				t.row(shortDigest(x.Layer), x.Format, bytesText(x.Blob), bytesText(x.Size), origin, x.Ref)
			}
			return t.flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object for each index")
	return cmd
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func (a *app) indexRemoveCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "rm IMAGE|LAYER", Short: "Remove indexes that the daemon has", Args: nArgs(1, 1),
		Long: `rm removes the daemon's indexes of an image's layers, or of one layer by its digest.
Those of trees in use stay, and are an error. What was pushed into a registry is not
touched. A layer without index is read whole when it is used next.`,
		Example: `  nineply index rm example.com/python:3.12
  nineply index rm sha256:5f2c...`,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.RemoveIndexes(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(r)
			}
			_, err = fmt.Fprintf(a.stdout, "%d removed\n", r.Removed)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}
