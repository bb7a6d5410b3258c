package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/source/sourcetest"
)

// TestDockerRegistry runs the suite against the registry that Debian ships.
func TestDockerRegistry(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a server")
	}
	binary, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed")
	}
	addr := startRegistry(t, binary)
	var repos atomic.Int64
	for _, chunk := range []int64{0, 64 << 10} {
		t.Run(fmt.Sprintf("chunk=%d", chunk), func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T) sourcetest.Harness {
				repo := fmt.Sprintf("%s/suite/repo-%d", addr, repos.Add(1))
				return sourcetest.Harness{
					Backend: open(t, registry.Options{ChunkSize: chunk}),
					Strict:  true,
					Ref: func(target string) string {
						if strings.Contains(target, ":") {
							return repo + "@" + target
						}
						return repo + ":" + target
					},
				}
			})
		})
	}
}

// startRegistry runs the binary until the end of the test.
func startRegistry(t *testing.T, binary string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	write(t, config, fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", filepath.Join(dir, "data"), addr))
	var output bytes.Buffer
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary, "serve", config)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		cancel()
		if err := <-exited; t.Failed() {
			t.Logf("the registry ended with %v; its output:\n%s", err, output.String())
		}
	})
	for !answers(t, addr) {
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("the registry ended: %v\n%s", err, output.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return addr
}

func answers(t *testing.T, addr string) bool {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/v2/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil
}
