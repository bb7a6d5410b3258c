package daemon

import (
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/image"
)

// treeStatus describes a tree and what it was read for.
func treeStatus(t image.TreeInfo) control.Tree {
	out := control.Tree{Name: t.Name, Layers: t.Layers, Files: t.Files, Users: t.Users}
	a := t.Account
	if a == nil {
		return out
	}
	out.Image = a.Image
	out.Account = &control.Account{
		Hits: a.Hits, Misses: a.Misses, Errors: a.Errors, Late: a.Late, Unknown: a.Missed,
		Bytes: a.Bytes, Waited: a.Waited.Seconds(), Requests: a.Fetch.Requests, Fetched: a.Fetch.Bytes,
	}
	if s := a.Start; s != nil {
		out.Account.Start = &control.StartAccount{Over: s.Over, Chunks: s.Chunks, Needed: s.Bytes, Asked: s.Asked, Unread: s.Unread}
	}
	return out
}
