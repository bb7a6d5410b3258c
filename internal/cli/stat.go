package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nineply/nineply/internal/control"
)

func (a *app) statCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "stat", Short: "Show what is asked of the 9P server, and how long it takes", Args: nArgs(0, 0),
		Long: `stat shows the requests since the daemon started by their type, and the connections
there are. Requests answered at once are timed one in 64; those that had to wait, for
bytes that were not in the cache or for an image to be found, are timed each. Times
are the ends of ranges that double: 99 of 100 took no longer than P99.

Mounts made by the keeper, and how often each had to connect anew, are in "nineply
status".`,
		Example: `  nineply stat
  nineply stat --json | jq '.sessions[] | {aname, misses}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *control.Client) error {
				st, err := c.Stat(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(st)
				}
				return a.printStat(st)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (a *app) printStat(st control.Stat) error {
	t := newTable(a.stdout)
	t.row("bytes", fmt.Sprintf("%s in, %s out, of that %s of files", bytesText(int64(st.BytesIn)), bytesText(int64(st.BytesOut)), bytesText(int64(st.Payload))))
	t.row("reads", fmt.Sprintf("%d answered at once, %d had to wait, %d timed out, %d given up", st.LocalReads, st.Misses, st.Timeouts, st.Flushed))
	if len(st.Errors) > 0 {
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(st.Errors)) {
			parts = append(parts, fmt.Sprintf("%d %s", st.Errors[name], name))
		}
		t.row("errors", strings.Join(parts, ", "))
	}
	if err := t.flush(); err != nil || len(st.Messages) == 0 {
		return err
	}
	t = newTable(a.stdout, "\nREQUEST", "COUNT", "MEAN", "P50", "P99", "WAITED", "MEAN", "P50", "P99")
	for _, m := range st.Messages {
		t.row(append(append([]string{m.Type, fmt.Sprint(m.Count)}, timesText(m.AtOnce)...), waitedText(m.Waited)...)...)
	}
	if err := t.flush(); err != nil || len(st.Sessions) == 0 {
		return err
	}
	t = newTable(a.stdout, "\nSESSION", "SINCE", "REQUESTS", "BYTES", "READS", "MISSES", "FIDS", "WAITING")
	for _, s := range st.Sessions {
		name := s.Aname
		if name == "" {
			name = "-"
		}
		t.row(name, s.Since.Local().Format(time.DateTime), fmt.Sprint(s.Messages), bytesText(int64(s.Payload)),
			fmt.Sprint(s.LocalReads+s.Misses), fmt.Sprint(s.Misses), fmt.Sprint(s.FIDs), fmt.Sprint(s.Waiting))
	}
	return t.flush()
}

func waitedText(l control.Latency) []string {
	if l.Count == 0 {
		return []string{"-"}
	}
	return append([]string{fmt.Sprint(l.Count)}, timesText(l)...)
}

func timesText(l control.Latency) []string {
	if l.Count == 0 {
		return []string{"-", "-", "-"}
	}
	return []string{secondsText(l.Mean), secondsText(l.P50), secondsText(l.P99)}
}

// secondsText prints a time with three digits.
func secondsText(s float64) string {
	d := time.Duration(s * float64(time.Second))
	for unit := time.Second; unit >= time.Microsecond; unit /= 1000 {
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}
