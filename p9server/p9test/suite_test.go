package p9test_test

import (
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

var update = flag.Bool("update", false, "rewrite the replies in the transcripts")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect serves e on one end of a unix socket and gives the other.
func connect(t *testing.T, e p9server.Exporter) net.Conn {
	t.Helper()
	srv := p9server.NewServer(e, p9server.Options{})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, p9server.ErrServerClosed) {
			t.Errorf("Serve = %v", err)
		}
	})
	nc, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

func TestServer(t *testing.T) {
	if *update {
		rewriteTranscripts(t)
	}
	p9test.Run(t, connect)
}

func rewriteTranscripts(t *testing.T) {
	scripts, err := p9test.Transcripts()
	if err != nil {
		t.Fatal(err)
	}
	for name, script := range scripts {
		client := p9test.NewClient(t, connect(t, p9test.Export(p9test.Reference(t))))
		text := p9test.Play(client, script)
		if err := os.WriteFile(filepath.Join("testdata", name+".txt"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
