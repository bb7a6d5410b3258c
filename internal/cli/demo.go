package cli

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/nineply/nineply/internal/demo"
	"github.com/spf13/cobra"
)

func (a *app) demoCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "demo", Short: "Start a container from an image that was never pulled, and measure it", Args: nArgs(0, 0),
		Long: `demo makes a python3 image with debootstrap, puts it into a registry on the
loopback interface, and starts a container from it twice, with a containerd and a
daemon of its own: after a full pull with overlayfs, and lazily with Nineply. It
prints how long pull, create and run took, and how many bytes were fetched when
the container printed its line. It leaves nothing behind but the cached image.

It needs root and a few of Debian's packages; "make demo" installs them.`,
		Example: `  nineply demo
  nineply demo --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("this program's path: %w", err)
			}
			res, err := demo.Run(ctx, demo.Options{
				Program:  program,
				Progress: func(words string) { _, _ = fmt.Fprintln(a.stderr, words) },
			})
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(res)
			}
			return a.printDemo(res)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (a *app) printDemo(r demo.Result) error {
	if _, err := fmt.Fprintf(a.stdout, "\nThe container printed: %s\n\n", r.Line); err != nil {
		return err
	}
	t := newTable(a.stdout, "", "PULL", "CREATE", "RUN", "TOTAL", "FETCHED", "OF", "SHARE")
	for _, row := range []struct {
		name string
		s    demo.Start
	}{{"overlayfs", r.Overlayfs}, {"nineply", r.Nineply}} {
		s := row.s
		t.row(row.name, fmt.Sprintf("%.2f s", s.Pull), fmt.Sprintf("%.2f s", s.Create), fmt.Sprintf("%.2f s", s.Run), fmt.Sprintf("%.2f s", s.Total),
			bytesText(s.Fetched), bytesText(s.Size), fmt.Sprintf("%.0f %%", 100*float64(s.Fetched)/float64(s.Size)))
	}
	return t.flush()
}
