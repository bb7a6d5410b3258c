package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nineply/nineply/internal/config"
)

// listen opens a listening socket. A unix socket is for root alone; one that a
// dead daemon left is replaced, one that a living daemon serves is an error.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	network, address, err := config.SplitAddress(addr)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		if err := clearSocket(ctx, address); err != nil {
			return nil, err
		}
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", addr, err)
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("listening on %s: %w", addr, err), ln.Close())
		}
	}
	return ln, nil
}

// clearSocket makes way for a new unix socket at path.
func clearSocket(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("socket directory: %w", err)
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("%s is served already: is another daemon running?", path), conn.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stale socket: %w", err)
	}
	return nil
}
