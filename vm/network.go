package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/vm/internal/bootspec"
)

// network is a network namespace with a tap device on which one guest finds
// the host's services. Only descriptors keep it: it vanishes with its users.
type network struct {
	ns        *os.File
	onSignal  func(string) string
	listeners []net.Listener
	wg        sync.WaitGroup
	mu        sync.Mutex // guards conns and closed
	conns     map[net.Conn]bool
	closed    bool
}

// tapName is the device of a network; each is alone in its namespace.
const tapName = "tap0"

func newNetwork(ctx context.Context, services map[int]string, onSignal func(string) string) (*network, error) {
	n := &network{conns: map[net.Conn]bool{}, onSignal: onSignal}
	if err := n.unshare(); err != nil {
		return nil, fmt.Errorf("guest network: %w", err)
	}
	for port, target := range services {
		kind, address, ok := strings.Cut(target, ":")
		if !ok {
			return nil, errors.Join(fmt.Errorf("guest service %q is neither tcp:ADDRESS nor unix:PATH", target), n.close())
		}
		err := n.listen(ctx, port, func(conn net.Conn) { n.forward(ctx, conn, kind, address) })
		if err != nil {
			return nil, errors.Join(err, n.close())
		}
	}
	if err := n.listen(ctx, bootspec.SignalPort, n.answer); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

// unshare makes the namespace on a thread of its own, which ends with the
// goroutine, and keeps a descriptor of it.
func (n *network) unshare() error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in the namespace
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("new network namespace: %w", err)
			}
			if err := makeTap(); err != nil {
				return err
			}
			ns, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
			n.ns = ns
			return err
		}()
	}()
	return <-done
}

// within runs fn on a thread inside the namespace: sockets it makes belong
// there, processes it starts live there.
func (n *network) within(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in the namespace
		done <- func() error {
			if err := unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace: %w", err)
			}
			return fn()
		}()
	}()
	return <-done
}

func (n *network) listen(ctx context.Context, port int, serve func(net.Conn)) error {
	return n.within(func() error {
		var config net.ListenConfig
		l, err := config.Listen(ctx, "tcp4", fmt.Sprintf(":%d", port))
		if err != nil {
			return fmt.Errorf("guest service: %w", err)
		}
		n.listeners = append(n.listeners, l)
		n.wg.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				n.wg.Go(func() { n.serve(conn, serve) })
			}
		})
		return nil
	})
}

func (n *network) serve(conn net.Conn, serve func(net.Conn)) {
	if n.track(conn) {
		serve(conn)
	}
	n.drop(conn)
}

// track remembers a connection for close; false once closed.
func (n *network) track(conn net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.conns[conn] = true
	}
	return !n.closed
}

func (n *network) drop(conn net.Conn) {
	n.mu.Lock()
	delete(n.conns, conn)
	n.mu.Unlock()
	_ = conn.Close()
}

// forward joins a guest's connection with a fresh one to the host's service.
// Either side ending ends both, as a direct connection would.
func (n *network) forward(ctx context.Context, guest net.Conn, kind, address string) {
	var dialer net.Dialer
	host, err := dialer.DialContext(ctx, kind, address)
	if err != nil {
		return
	}
	defer n.drop(host)
	if !n.track(host) {
		return
	}
	var pair sync.WaitGroup
	pair.Go(func() {
		_, _ = io.Copy(host, guest)
		_ = host.Close()
	})
	_, _ = io.Copy(guest, host)
	_ = guest.Close()
	pair.Wait()
}

func (n *network) answer(conn net.Conn) {
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	reply := "no one listens"
	if n.onSignal != nil {
		reply = n.onSignal(strings.TrimSpace(line))
	}
	_, _ = fmt.Fprintln(conn, reply)
}

// run runs argv inside the namespace to its end; a cancelled ctx kills it.
func (n *network) run(ctx context.Context, argv []string, console io.Writer) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = console, console
	// A guest never outlives its test, nor do the processes of its own: the
	// guest is the first process of a PID namespace, and the death signal
	// follows the thread that started it, which within keeps until the end.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, Pdeathsig: unix.SIGKILL, Cloneflags: unix.CLONE_NEWPID,
	}
	return n.within(func() error {
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("guest process: %w", err)
		}
		return nil
	})
}

func (n *network) close() error {
	n.mu.Lock()
	n.closed = true
	for conn := range n.conns {
		_ = conn.Close()
	}
	n.mu.Unlock()
	var errs []error
	for _, l := range n.listeners {
		errs = append(errs, l.Close())
	}
	n.wg.Wait()
	if n.ns != nil {
		errs = append(errs, n.ns.Close())
	}
	return errors.Join(errs...)
}
