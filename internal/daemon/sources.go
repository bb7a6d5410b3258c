package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/hosts"
	"github.com/nineply/nineply/internal/source/layout"
	"github.com/nineply/nineply/internal/source/registry"
	"go.uber.org/zap"
)

// Sources opens the places that images come from and go to: registries and OCI
// layout directories.
func Sources(c config.Config) *SourceSet { return newSources(c, zap.NewNop()) }

// newSources is Sources with a log.
func newSources(c config.Config, log *zap.Logger) *SourceSet {
	k := newKeys(c.Registry, log.Named("credentials"))
	r := registry.New(registry.Options{
		Hosts:        hosts.Config{Dirs: c.Registry.HostsDirs},
		Credentials:  k.chain,
		StallTimeout: time.Duration(c.Registry.Timeout),
		Logger:       log.Named("registry"),
	})
	return &SourceSet{Mux: source.Mux{Registry: r, Layout: layout.New()}, registry: r, keys: k, cri: c.Registry.CRI, log: log}
}

// SourceSet is every source at once; references choose among them.
type SourceSet struct {
	source.Mux
	registry *registry.Registry
	keys     *keys
	cri      config.CRI
	log      *zap.Logger
}

// listen begins to learn credentials from kubelet's pulls, if that is configured.
func (s *SourceSet) listen(ctx context.Context) error {
	return s.keys.serveCRI(ctx, s.cri, s.log.Named("cri"))
}

// Close drops idle connections, and ends what listens or watches.
func (s *SourceSet) Close() error { return errors.Join(s.registry.Close(), s.keys.close()) }

// Traffic counts requests and bytes by registry host.
func (s *SourceSet) Traffic() map[string]source.HostStats { return s.registry.Stats() }
