package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/nineply/nineply/internal/control"
	"github.com/spf13/cobra"
)

func (a *app) eventsCommand() *cobra.Command {
	var asJSON, follow bool
	cmd := &cobra.Command{
		Use: "events", Short: "Show what the daemon found out about layers", Args: nArgs(0, 0),
		Long: `events lists what happened since the daemon started, the oldest first, as far as it
is still remembered:

verified    a layer was read to its end in the background, and is what its image
            claims: blob digest, diff ID, and every file
poisoned    a layer is not what its image claims; reading it fails with EIO, and
            attaching it is refused
unverified  a layer could not be read to its end, and is served as before
refused     a layer cannot be read here, for the reason given: containerd unpacks it`,
		Example: `  nineply events
  nineply events --follow --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *control.Client) error { return a.printEvents(cmd.Context(), c, asJSON, follow) })
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object for each event")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	return cmd
}

func (a *app) printEvents(ctx context.Context, c *control.Client, asJSON, follow bool) error {
	var after uint64
	for {
		var wait time.Duration
		if follow {
			wait = control.MaxEventWait
		}
		list, err := c.Events(ctx, after, wait)
		if err != nil {
			if follow && ctx.Err() != nil {
				return nil //nolint:nilerr // interrupted, as it is meant to be
			}
			return err
		}
		for _, e := range list {
			after = e.Number
			if err := a.printEvent(e, asJSON); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
	}
}

func (a *app) printEvent(e control.Event, asJSON bool) error {
	if asJSON {
		return a.printJSON(e)
	}
	if _, err := fmt.Fprintf(a.stdout, "%s  %-10s  %s  %s\n", e.Time.Local().Format(time.DateTime), e.Kind, shortDigest(e.Layer), e.Text); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

// stateText says how far the background is with a layer.
func stateText(l control.LayerStatus) string {
	switch {
	case l.State == "":
		return "-"
	case l.State == "filling" && l.Size > 0:
		return fmt.Sprintf("filling %d %%", l.Done*100/l.Size)
	case l.StateReason != "":
		return l.State + ": " + l.StateReason
	}
	return l.State
}
