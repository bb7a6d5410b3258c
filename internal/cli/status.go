package cli

import (
	"fmt"
	"time"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/doctor"
	"github.com/spf13/cobra"
)

// client connects to the daemon's control socket.
func (a *app) client() (*control.Client, error) {
	c, err := a.config()
	if err != nil {
		return nil, err
	}
	network, address, err := config.SplitAddress(c.Listen.Control)
	if err != nil || network != "unix" {
		return nil, usageError{fmt.Errorf("listen.control: %q is not a unix socket", c.Listen.Control)}
	}
	return control.NewClient(address), nil
}

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show what is mounted, what was fetched and what is cached", Args: nArgs(0, 0),
		Example: `  nineply status
  nineply status --json | jq .fetch`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			st, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(st)
			}
			return a.printStatus(st)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (a *app) printStatus(st control.Status) error {
	t := newTable(a.stdout)
	t.row("daemon", fmt.Sprintf("version %s, pid %d, up %s, %d 9P sessions", st.Version, st.PID, time.Duration(st.Uptime*float64(time.Second)).Round(time.Second), st.Sessions))
	limit := "no limit"
	if st.Cache.MaxBytes > 0 {
		limit = "of " + bytesText(st.Cache.MaxBytes)
	}
	t.row("cache", fmt.Sprintf("%s %s, %d chunks, %s evicted", bytesText(st.Cache.Bytes), limit, st.Cache.Chunks, bytesText(st.Cache.Evicted)))
	f := st.Fetch
	t.row("fetched", fmt.Sprintf("%s on demand, %s ahead of readers, %s in the background, %s tables of contents, %s whole layers", bytesText(f.Bytes["demand"]), bytesText(f.Bytes["prefetch"]), bytesText(f.Bytes["background"]), bytesText(f.TOC), bytesText(f.Whole)))
	t.row("reads", fmt.Sprintf("%d chunk hits, %d misses, %d chunks failed verification", f.Hits, f.Misses, f.Corrupt+int64(st.Cache.Corrupt)))
	if st.KeeperError != "" {
		t.row("keeper", st.KeeperError)
	}
	if err := t.flush(); err != nil {
		return err
	}
	return a.printServed(st)
}

func (a *app) printServed(st control.Status) error {
	if len(st.Mounts) > 0 {
		t := newTable(a.stdout, "\nMOUNT", "TREE", "MODE", "STATE", "REQUESTS", "BYTES", "RECONNECTS")
		for _, m := range st.Mounts {
			t.row(m.Target, m.Aname, m.Mode, m.State, fmt.Sprint(m.Requests), bytesText(int64(m.Bytes)), fmt.Sprint(m.Reconnects))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if len(st.Layers) == 0 {
		return nil
	}
	t := newTable(a.stdout, "\nLAYER", "FORMAT", "SIZE", "FETCHED", "CHUNKS LOCAL", "FILES", "LAZY", "STATE", "NO TOC OF ITS OWN BECAUSE")
	for _, l := range st.Layers {
		lazy := "no"
		if l.Lazy {
			lazy = "yes"
		}
		t.row(shortDigest(l.Digest), l.Format, bytesText(l.Size), bytesText(l.Fetched), fmt.Sprintf("%d/%d", l.LocalChunks, l.Chunks), fmt.Sprint(l.Files), lazy, stateText(l), l.Reason)
	}
	return t.flush()
}

func (a *app) doctorCommand() *cobra.Command {
	var asJSON bool
	var containerdConfig string
	var runtime doctorContainerd
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check what this machine has and say what to do", Args: nArgs(0, 0),
		Long: `doctor checks the kernel (9p, FUSE, overlayfs), containerd and its configuration,
the daemon's sockets and the disk. It changes nothing, unless told to --write. It
exits with 1 when the main job cannot work here.

With --containerd it looks at containerd's configuration alone, and knows what the
version that is installed needs. With --write as well, it adds what is missing; what
was there is kept beside the file, since comments are lost.`,
		Example: `  nineply doctor
  nineply doctor --containerd --write
  nineply doctor --containerd --name stargz  # for nerdctl, BuildKit and k3s
  nineply doctor --containerd-config /etc/containerd/config.toml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			findings := runtime.findings(cmd.Context(), doctor.Default(c, containerdConfig))
			if err := a.printFindings(findings, asJSON); err != nil {
				return err
			}
			if doctor.Worst(findings) == doctor.Fail {
				return fmt.Errorf("something this machine needs is missing: %w", statusError(ExitFailure))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per finding")
	cmd.Flags().StringVar(&containerdConfig, "containerd-config", "/etc/containerd/config.toml", "containerd's configuration file")
	runtime.flags(cmd)
	return cmd
}

func (a *app) printFindings(findings []doctor.Finding, asJSON bool) error {
	if asJSON {
		for _, f := range findings {
			if err := a.printJSON(f); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable(a.stdout)
	for _, f := range findings {
		t.row(string(f.Level), f.Check, f.Detail)
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, f := range findings {
		if f.Fix == "" || f.Level == doctor.OK {
			continue
		}
		if _, err := fmt.Fprintf(a.stdout, "\n%s:\n%s\n", f.Check, f.Fix); err != nil {
			return err
		}
	}
	return nil
}
