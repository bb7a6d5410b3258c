package daemon

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/nineply/nineply/internal/hostlink"
	"github.com/nineply/nineply/p9server"
)

// sessions serves 9P to clients whose connections a keeper holds.
type sessions struct{ server *p9server.Server }

var _ hostlink.Sessions = sessions{}

// NewLedger implements hostlink.Sessions.
func (sessions) NewLedger() (*os.File, error) { return p9server.NewLedger() }

// Serve implements hostlink.Sessions. Only the end of this daemon leaves something
// to go on with.
func (s sessions) Serve(ctx context.Context, nc *net.UnixConn, ledger *os.File) (over bool, err error) {
	err = s.server.ServeHeld(ctx, nc, ledger)
	return ctx.Err() == nil && !errors.Is(err, p9server.ErrServerClosed), err
}
