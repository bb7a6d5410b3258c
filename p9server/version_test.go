package p9server_test

import (
	"fmt"
	"testing"

	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// identified is a tree with a file system ID of its own.
type identified struct {
	p9server.Tree
	id uint64
}

func (i identified) Statfs() p9server.Statfs {
	st := i.Tree.Statfs()
	st.FSID = i.id
	return st
}

// TestQidVersionTellsTreesApart: after a restart the same name may stand for
// another tree, whose inode numbers mean nothing to who knew the first.
func TestQidVersionTellsTreesApart(t *testing.T) {
	for id, version := range map[uint64]uint32{0: 1, 1: 1, 42: 42, 5 << 32: 5, 7<<32 | 7: 1, 0xffffffff: 0xffffffff} {
		s := serve(t, p9test.Export(identified{p9test.Reference(t), id}), p9server.Options{})
		c := p9test.NewClient(t, s.dial())
		c.Exchange(`Tversion msize=8192 version="9P2000.L"`, `Rversion tag=65535 msize=8192 version="9P2000.L"`)
		c.Exchange(`Tattach fid=0 aname=""`, fmt.Sprintf("Rattach tag=0 qid=(80.%d.1)", version))
	}
}
