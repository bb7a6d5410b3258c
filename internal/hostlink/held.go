package hostlink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/nineply/nineply/internal/fserr"
)

// Sessions serves 9P on connections of which keepers hold duplicates.
type Sessions interface {
	// NewLedger makes the memory in which a session is kept.
	NewLedger() (*os.File, error)
	// Serve goes on with a session. It closes nc, and leaves ledger to the caller.
	// over says that nobody can go on with it any more.
	Serve(ctx context.Context, nc *net.UnixConn, ledger *os.File) (over bool, err error)
}

// packetOver is the daemon's word that a session is over.
const packetOver = 1

// serveSession serves the session of socket. The keeper takes the end of the link
// for that of this service, so that it must not come before.
func (s *Server) serveSession(ctx context.Context, c *net.UnixConn, socket *os.File, h *hello, stop func() bool) error {
	if socket == nil {
		return errPacket
	}
	sessions := s.opts.Sessions
	if sessions == nil || h.Version != version {
		err := fserr.New(fserr.Unsupported, "host link", "session", nil)
		return errors.Join(err, socket.Close(), sendJSON(c, Welcome{Errno: syscall.EOPNOTSUPP, Error: err.Error()}, nil))
	}
	ledger, err := sessionLedger(c, h, sessions)
	if err != nil {
		return errors.Join(err, socket.Close())
	}
	nc, err := net.FileConn(socket)
	err = errors.Join(err, socket.Close())
	if err != nil {
		return errors.Join(err, ledger.Close())
	}
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		return errors.Join(errPacket, nc.Close(), ledger.Close())
	}
	if !stop() {
		return errors.Join(ctx.Err(), nc.Close(), ledger.Close())
	}
	over, err := sessions.Serve(ctx, uc, ledger)
	err = errors.Join(err, ledger.Close())
	if over {
		err = errors.Join(err, send(c, []byte{packetOver}, nil))
	}
	return err
}

// sessionLedger takes the ledger that comes, or makes one and sends it.
func sessionLedger(c *net.UnixConn, h *hello, sessions Sessions) (*os.File, error) {
	if h.Ledger {
		_, ledger, err := receive(c, make([]byte, maxPacket), "ledger")
		if err == nil && ledger == nil {
			err = errPacket
		}
		if err == nil {
			err = sendJSON(c, Welcome{}, nil)
		}
		return ledger, err
	}
	ledger, err := sessions.NewLedger()
	if err != nil {
		return nil, errors.Join(err, sendJSON(c, Welcome{Errno: syscall.EOPNOTSUPP, Error: fmt.Sprintf("%.1024s", err)}, nil))
	}
	if err := sendJSON(c, Welcome{}, ledger); err != nil {
		return nil, errors.Join(err, ledger.Close())
	}
	return ledger, nil
}

// SessionLink is a keeper's link to a daemon that serves a session.
type SessionLink struct{ c *net.UnixConn }

// DialSession connects to the socket at path.
func DialSession(ctx context.Context, path string) (*SessionLink, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, network, path)
	if err != nil {
		return nil, err
	}
	c, ok := nc.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("connection of type %T", nc), nc.Close())
	}
	return &SessionLink{c}, nil
}

// Give hands the daemon the server's end of a session's connection, and what
// there is of its ledger: nil for a new session, for which the daemon makes one.
// It gives the ledger. Afterwards the daemon may have begun even if Give fails; its
// end is the end of the link. Errors wrap ErrRefused if the daemon has not begun,
// and never will.
func (l *SessionLink) Give(ctx context.Context, socket, ledger *os.File) (*os.File, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.c.SetDeadline(time.Unix(1, 0)) }) // an end that cannot be missed
	given, err := l.give(socket, ledger)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil && given == nil {
		err = errPacket
	}
	if err != nil && given != nil && given != ledger {
		_ = given.Close() // nothing is in it
	}
	if err != nil {
		return nil, err
	}
	return given, nil
}

func (l *SessionLink) give(socket, ledger *os.File) (*os.File, error) {
	if err := sendJSON(l.c, hello{Version: version, Session: true, Ledger: ledger != nil}, socket); err != nil {
		return nil, err
	}
	if ledger != nil {
		if err := send(l.c, []byte{0}, ledger); err != nil {
			return nil, err
		}
	}
	buf := make([]byte, maxPacket)
	n, made, err := receive(l.c, buf, "ledger")
	if err != nil {
		return nil, err
	}
	var w Welcome
	switch err := json.Unmarshal(buf[:n], &w); {
	case err != nil:
		return made, err
	case w.Errno != 0:
		return made, fmt.Errorf("%w: %s: %w", ErrRefused, w.Error, w.Errno)
	case ledger != nil && made != nil:
		return made, errPacket
	case ledger != nil:
		return ledger, nil
	}
	return made, nil
}

// Wait waits for the end of the link: over if the daemon says that the session is,
// otherwise the daemon has gone.
func (l *SessionLink) Wait() (over bool) {
	var b [2]byte
	n, err := l.c.Read(b[:])
	return err == nil && n == 1 && b[0] == packetOver
}

// Abandon ends a link whose Give failed, and waits until the daemon, which may have
// begun all the same, has let go of the session: two must not serve it. ctx bounds it.
func (l *SessionLink) Abandon(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = l.c.SetReadDeadline(time.Unix(1, 0)) }) // an end that cannot be missed
	defer stop()
	err := l.c.CloseWrite()
	for err == nil {
		_, err = l.c.Read(make([]byte, maxPacket)) // what it says no longer counts
	}
	return l.c.Close()
}

// Close ends the link, and not the session.
func (l *SessionLink) Close() error { return l.c.Close() }
