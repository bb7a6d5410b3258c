//go:build linux

package p9server_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// BenchmarkHeld sets sessions with a ledger beside ones without.
func BenchmarkHeld(b *testing.B) {
	for _, held := range []bool{false, true} {
		b.Run(fmt.Sprintf("held=%t", held), func(b *testing.B) {
			runOperations(b, func(b *testing.B, tree *p9test.Tree) net.Conn {
				return heldOrNot(b, p9server.NewServer(p9test.Export(tree), p9server.Options{}), held)
			})
		})
	}
}

// heldOrNot gives the client's end of a session.
func heldOrNot(b *testing.B, s *p9server.Server, held bool) net.Conn {
	b.Helper()
	client, file := pair(b)
	nc, err := net.FileConn(file)
	if err != nil {
		b.Fatal(err)
	}
	ledger, err := p9server.NewLedger()
	if err != nil {
		b.Fatal(err)
	}
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if held {
			_ = s.ServeHeld(context.Background(), nc.(*net.UnixConn), ledger)
		} else {
			_ = s.ServeConn(context.Background(), nc)
		}
		_ = ledger.Close()
	})
	b.Cleanup(func() { _ = client.Close(); wg.Wait() })
	return client
}
