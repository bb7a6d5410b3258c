package daemon

import (
	"os"
	"path/filepath"
	"time"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/credentials"
	"github.com/nineply/nineply/internal/source/hosts"
	"github.com/nineply/nineply/internal/source/layout"
	"github.com/nineply/nineply/internal/source/registry"
)

// Sources opens the places that images come from and go to: registries and OCI
// layout directories.
func Sources(c config.Config) *SourceSet {
	r := registry.New(registry.Options{
		Hosts:        hosts.Config{Dirs: c.Registry.HostsDirs},
		Credentials:  credentials.DockerConfig(dockerConfig(c.Registry.DockerConfig)),
		StallTimeout: time.Duration(c.Registry.Timeout),
	})
	return &SourceSet{Mux: source.Mux{Registry: r, Layout: layout.New()}, registry: r}
}

// SourceSet is every source at once; references choose among them.
type SourceSet struct {
	source.Mux
	registry *registry.Registry
}

// Close drops idle connections.
func (s *SourceSet) Close() error { return s.registry.Close() }

// Traffic counts requests and bytes by registry host.
func (s *SourceSet) Traffic() map[string]source.HostStats { return s.registry.Stats() }

// dockerConfig is the docker configuration to read credentials from.
func dockerConfig(path string) string {
	if path != "" {
		return path
	}
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/root"
	}
	return filepath.Join(home, ".docker", "config.json")
}
