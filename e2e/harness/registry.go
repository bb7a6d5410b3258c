package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/demoimage"
)

// Registry is Debian's docker-registry with a storage of its own.
type Registry struct {
	*Process
	Addr string // host:port on the loopback interface, plain HTTP
}

const registryConfig = `version: 0.1
log:
  level: info
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: true}
http:
  addr: 127.0.0.1:0
  relativeurls: true
`

var listeningOn = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

// StartRegistry starts an empty registry.
func StartRegistry(t testing.TB) *Registry {
	t.Helper()
	program := lookPath(t, "docker-registry", "docker-registry")
	dir := Dir(t)
	config := filepath.Join(dir, "registry.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, registryConfig, filepath.Join(dir, "storage")), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &Registry{Process: Start(t, dir, "registry", []string{"OTEL_TRACES_EXPORTER=none"}, program, "serve", config)}
	r.Await(t, func() error {
		log, err := os.ReadFile(r.Log)
		if err != nil {
			return err
		}
		match := listeningOn.FindSubmatch(log)
		if match == nil {
			return errors.New("not listening yet")
		}
		r.Addr = string(match[1])
		return nil
	})
	return r
}

// Push copies an image to the registry as NAME:latest.
func (r *Registry) Push(t testing.TB, im *demoimage.Image, name string) {
	t.Helper()
	if err := im.Push(t.Context(), r.Addr+"/"+name+":latest"); err != nil {
		t.Fatal(err)
	}
}

// LoggedBlobReads counts the blob requests in the registry's own access log: an
// account independent of the proxy's.
func (r *Registry) LoggedBlobReads(t testing.TB) int {
	t.Helper()
	log, err := os.ReadFile(r.Log)
	if err != nil {
		t.Fatal(err)
	}
	reads := 0
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, `"GET /v2/`) && strings.Contains(line, "/blobs/sha256:") {
			reads++
		}
	}
	return reads
}
