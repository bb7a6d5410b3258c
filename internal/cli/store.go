package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/layerstore"
)

func (a *app) storeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "store", Short: "Let Podman, CRI-O and Buildah use images lazily",
		Long: `store is an additional layer store: a directory that containers/storage looks for
layers in before it pulls them. What a container reads is then fetched when it is
read, and shared with everything else that the daemon serves.

In storage.conf, with the directory that "nineply store serve" was given:

  [storage.options]
  additionallayerstores = ["/var/lib/nineply/store:ref"]`,
		RunE: func(cmd *cobra.Command, _ []string) error { return usageError{errors.New("usage: " + cmd.UseLine())} },
	}
	cmd.AddCommand(a.storeServeCommand(), a.storeListCommand())
	return cmd
}

// storeFile is where the counts of the layer store on a directory are kept, and
// storeMounts where its layers are mounted.
func storeFile(c config.Config) string   { return filepath.Join(c.Root, "layerstore.json") }
func storeMounts(c config.Config) string { return filepath.Join(c.State, "l") }

func (a *app) storeServeCommand() *cobra.Command {
	var options layerstore.FSOptions
	cmd := &cobra.Command{
		Use: "serve [DIR]", Short: "Serve the layer store on a directory (default: store, below the root)", Args: nArgs(0, 1),
		Long: `serve runs in the foreground until it gets SIGTERM or SIGINT, and needs a running
daemon. Which layers are in use survives it, and containers that run do as well:
their files are served by the keeper of mounts. DIR must stay the same, since the
clients remember it.`,
		Example: "  nineply store serve /var/lib/nineply/store",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			dir := filepath.Join(c.Root, "store")
			if len(args) > 0 {
				if dir, err = filepath.Abs(args[0]); err != nil {
					return err
				}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return a.withClient(func(client *control.Client) error { return serveStore(ctx, c, client, dir, options) })
		},
	}
	cmd.Flags().BoolVar(&options.AllowOther, "allow-other", false, "let all users in, and with them to every image that the daemon has credentials for")
	return cmd
}

func serveStore(ctx context.Context, c config.Config, client *control.Client, dir string, options layerstore.FSOptions) error {
	log, err := storeLogger(c)
	if err != nil {
		return err
	}
	store, err := layerstore.New(layerstore.Options{Daemon: client, File: storeFile(c), Mounts: storeMounts(c), Logger: log})
	if err != nil {
		return err
	}
	mounted, err := layerstore.Mount(store, dir, options)
	if err != nil {
		return err
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("telling systemd", zap.Error(err))
	}
	log.Info("layer store ready", zap.String("dir", dir), zap.Int("layers", len(store.List())))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		mounted.Wait()
		cancel()
	}()
	store.Run(ctx)
	select {
	case <-ended:
		return nil // somebody else unmounted it
	default:
	}
	if err := mounted.Unmount(dir); err != nil {
		return fmt.Errorf("layer store: %w", err)
	}
	<-ended
	return nil
}

func storeLogger(c config.Config) (*zap.Logger, error) {
	zc := zap.NewProductionConfig()
	zc.Sampling = nil
	zc.DisableStacktrace, zc.DisableCaller = true, true
	level, err := zap.ParseAtomicLevel(c.Log.Level)
	if err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	zc.Level = level
	return zc.Build()
}

func (a *app) storeListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "Show the layers that clients use", Args: nArgs(0, 0),
		Long:    `list shows what the layer store has written down. It needs neither the store nor the daemon.`,
		Example: "  nineply store list --json",
		RunE: func(*cobra.Command, []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			records, err := layerstore.Read(storeFile(c))
			if err != nil {
				return err
			}
			return a.printStore(records, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object for each layer")
	return cmd
}

func (a *app) printStore(records []layerstore.Record, asJSON bool) error {
	for _, r := range records {
		if asJSON {
			if err := a.printJSON(r); err != nil {
				return err
			}
			continue
		}
		kind := "blob"
		if strings.EqualFold(r.Name, r.Layer.TOC) {
			kind = "TOC"
		}
		if _, err := fmt.Fprintf(a.stdout, "%3d uses  %s  by %s  %s\n", r.Used(), shortDigest(r.Name), kind, r.Ref); err != nil {
			return fmt.Errorf("writing the answer: %w", err)
		}
	}
	return nil
}
