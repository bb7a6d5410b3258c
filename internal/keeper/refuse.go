package keeper

import (
	"context"
	"net"
	"os"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/p9server"
)

// refuse serves a session that no daemon serves: EIO for whatever needs a tree.
func refuse(ctx context.Context, nc *net.UnixConn, ledger *os.File) error {
	return p9server.NewServer(noTrees{}, p9server.Options{}).ServeHeld(ctx, nc, ledger)
}

// noTrees has no tree.
type noTrees struct{}

func (noTrees) Attach(_ context.Context, aname string) (p9server.Tree, func(), error) {
	return nil, nil, fserr.New(fserr.Closed, "attach", aname, nil)
}
