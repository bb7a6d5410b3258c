package mount

import "github.com/nineply/nineply/layerindex"

// attr gives a node's attributes, with the owners that the mount's user
// namespace has (see internal/idmap). The index itself is shared by all mounts of
// a tree.
func (f *indexFront) attr(n uint64) (layerindex.Attr, error) {
	a, err := f.x.Attr(n)
	if err == nil {
		a.UID, a.GID = f.ids.Shift(a.UID, a.GID)
	}
	return a, err
}
