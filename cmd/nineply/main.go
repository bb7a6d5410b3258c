// Command nineply serves container images as lazy 9P file systems: the daemon,
// containerd's snapshotter plugin, and the tools around them.
package main

import (
	"context"
	"os"

	"github.com/nineply/nineply/internal/cli"
)

func main() { os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }
