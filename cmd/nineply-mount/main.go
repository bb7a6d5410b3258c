// Command nineply-mount turns trees that a nineply daemon serves over 9P into
// mounts of this kernel, and holds them when the daemon goes away.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/nineply/nineply/internal/keeper"
)

// version is set when the program is built.
var version = "devel"

func main() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	os.Exit(keeper.Run(context.Background(), os.Args, keeper.Env{
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Version: version,
		Signals: signals,
	}))
}
