package cli

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/nineply/nineply/internal/daemon"
	"github.com/spf13/cobra"
)

func (a *app) daemonCommand() *cobra.Command {
	var printConfig bool
	var keeper string
	cmd := &cobra.Command{
		Use: "daemon", Short: "Serve images over 9P, and containerd's snapshotter plugin", Args: nArgs(0, 0),
		Long: `daemon runs in the foreground until it gets SIGTERM or SIGINT. It needs no
configuration. Stopping it deletes nothing and unmounts nothing: mounts are held
by a small separate process (nineply-mount), which waits for the next daemon.

For containerd, add to its configuration:

  [proxy_plugins.nineply]
    type = "snapshot"
    address = "/run/nineply/snapshotter.sock"

"nineply doctor" checks that, and what else is needed.`,
		Example: `  nineply daemon
  nineply daemon --print-config > /etc/nineply/config.toml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			if printConfig {
				return c.Write(a.stdout)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return daemon.Run(ctx, daemon.Options{Config: c, Version: Version(), KeeperProgram: keeper})
		},
	}
	cmd.Flags().StringVar(&a.root, "root", "", "directory of the cache and the snapshots")
	cmd.Flags().BoolVar(&printConfig, "print-config", false, "print the effective configuration and exit")
	cmd.Flags().StringVar(&keeper, "keeper", "", "the nineply-mount program to start if no keeper runs (default: beside this program, then in PATH); \"none\": start none")
	return cmd
}
