package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/hostlink"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// hostLinks answers keepers beside every 9P socket of this host, until ctx ends or
// the daemon closes. A socket that cannot be opened is done without: 9P has to do.
func (p *parts) hostLinks(ctx context.Context) {
	s := hostlink.NewServer(hostlink.Options{
		Attach: p.attachHost, Sessions: sessions{p.service.server}, ReadTimeout: time.Duration(p.cfg.Fetch.ReadTimeout), Logger: p.log.Named("hostlink"),
	})
	ctx, cancel := context.WithCancel(ctx)
	var g errgroup.Group
	p.onClose(func() error {
		cancel()
		return g.Wait()
	})
	for _, addr := range p.cfg.Listen.NineP {
		network, path, err := config.SplitAddress(addr)
		if err != nil || network != "unix" {
			continue
		}
		path = hostlink.SocketFor(path)
		ln, err := hostlink.Listen(ctx, path)
		if err != nil {
			p.log.Warn("mounts of this host do without a host link", zap.String("socket", path), zap.Error(err))
			continue
		}
		g.Go(func() error { return ended(ctx, s.Serve(ctx, ln)) })
	}
}

// attachHost attaches a tree for a keeper.
func (p *parts) attachHost(ctx context.Context, aname string) (hostlink.Tree, error) {
	// Whoever mounts shifts the owners: the index has those of the image.
	base, _, err := cutIDs(aname)
	if err != nil {
		return hostlink.Tree{}, err
	}
	t, release, err := p.service.catalog.Open(ctx, base)
	if err != nil {
		return hostlink.Tree{}, fmt.Errorf("attach %.256q: %w", aname, err)
	}
	index, err := p.service.catalog.IndexFile(t)
	if err != nil {
		release()
		return hostlink.Tree{}, err
	}
	st := tree{t}.Statfs()
	return hostlink.Tree{
		TryRead: t.TryReadAt, Read: t.ReadAt, Index: index, Release: release,
		Welcome: hostlink.Welcome{Tree: t.Name(), BlockSize: st.BlockSize, Blocks: st.Blocks, Files: st.Files},
	}, nil
}
