//go:build !linux || !(amd64 || arm64)

package p9server

import (
	"errors"
	"net"
	"os"

	"github.com/nineply/nineply/internal/fserr"
)

type heldSocket struct{}

var errNoLedger = fserr.New(fserr.Unsupported, "hold", "9P session", errors.New("not on this system"))

// NewLedger is for Linux on amd64 and arm64.
func NewLedger() (*os.File, error) { return nil, errNoLedger }

func mapLedger(*os.File) ([]byte, error)           { return nil, errNoLedger }
func unmapLedger([]byte) error                     { return nil }
func (l *ledger) dropLog(uint32, uint64)           {}
func (l *ledger) useSocket(*net.UnixConn) error    { return errNoLedger }
func (l *ledger) recv([]byte, uint32) (int, error) { return 0, errNoLedger }
func (l *ledger) transmit([]byte) (int, error)     { return 0, errNoLedger }
