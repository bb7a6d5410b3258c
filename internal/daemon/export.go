package daemon

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/p9server"
	"go.uber.org/zap"
)

// exporter gives 9P sessions the catalog's trees.
type exporter struct {
	catalog *image.Catalog
	log     *zap.Logger
}

var _ p9server.Exporter = exporter{}

// Attach implements p9server.Exporter.
func (e exporter) Attach(ctx context.Context, aname string) (p9server.Tree, func(), error) {
	base, ids, err := cutIDs(aname)
	if err != nil {
		return nil, nil, err
	}
	t, release, err := e.catalog.Open(ctx, base)
	if err != nil {
		// 9P has room for a number only, so the cause is told here.
		e.log.Warn("attach refused", zap.String("aname", aname), zap.Error(err))
		return nil, nil, fmt.Errorf("attach %.256q: %w", aname, err)
	}
	return shifted(tree{t}, ids), release, nil
}

// tree adds to a catalog tree what only 9P asks for.
type tree struct{ image.Tree }

// Statfs describes the file system: full, as read-only ones are.
func (t tree) Statfs() p9server.Statfs {
	const block = 4096
	bytes, files := t.Size()
	var id [8]byte
	if raw, err := hex.DecodeString(t.Name()[:2*len(id)]); err == nil {
		copy(id[:], raw)
	}
	var fsid uint64
	for _, b := range id {
		fsid = fsid<<8 | uint64(b)
	}
	return p9server.Statfs{BlockSize: block, Blocks: uint64(bytes+block-1) / block, Files: uint64(files), FSID: fsid, NameLen: 255}
}
