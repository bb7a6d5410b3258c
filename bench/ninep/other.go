package main

import (
	"github.com/hugelgupf/p9/fsimpl/templatefs"
	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/layerindex"
)

// otherFile puts a tree behind the interface of github.com/hugelgupf/p9, at the
// least cost that it allows.
type otherFile struct {
	templatefs.NotImplementedFile
	p9.DefaultWalkGetAttr
	tree image.Tree
	node uint64
}

func (f *otherFile) Attach() (p9.File, error) { return f, nil }

func (f *otherFile) qid() (p9.QID, layerindex.Attr, error) {
	a, err := f.tree.Attr(f.node)
	typ := p9.TypeRegular
	switch a.Mode & layerindex.ModeTypeMask {
	case layerindex.ModeDir:
		typ = p9.TypeDir
	case layerindex.ModeSymlink:
		typ = p9.TypeSymlink
	}
	return p9.QID{Type: typ, Version: 1, Path: f.node}, a, err
}

func (f *otherFile) Walk(names []string) ([]p9.QID, p9.File, error) {
	at := &otherFile{tree: f.tree, node: f.node}
	qids := make([]p9.QID, 0, len(names))
	for _, name := range names {
		node, err := f.tree.Lookup(at.node, []byte(name))
		if err != nil {
			return nil, nil, linux.ENOENT
		}
		at.node = node
		qid, _, err := at.qid()
		if err != nil {
			return nil, nil, err
		}
		qids = append(qids, qid)
	}
	return qids, at, nil
}

func (f *otherFile) GetAttr(p9.AttrMask) (p9.QID, p9.AttrMask, p9.Attr, error) {
	qid, a, err := f.qid()
	return qid, p9.AttrMask{Mode: true, UID: true, GID: true, NLink: true, Size: true, MTime: true}, p9.Attr{
		Mode: p9.FileMode(a.Mode), UID: p9.UID(a.UID), GID: p9.GID(a.GID), NLink: p9.NLink(a.NLink), Size: a.Size,
		MTimeSeconds: uint64(a.Mtime),
	}, err
}

func (f *otherFile) Open(p9.OpenFlags) (p9.QID, uint32, error) {
	qid, _, err := f.qid()
	return qid, 0, err
}

func (f *otherFile) ReadAt(p []byte, off int64) (int, error) {
	n, _, err := f.tree.TryReadAt(f.node, p, off)
	return n, err
}

// direntSize is about what an entry takes on the wire.
const direntSize = 35

func (f *otherFile) Readdir(offset uint64, count uint32) (p9.Dirents, error) {
	var entries p9.Dirents
	for range count / direntSize {
		e, next, ok, err := f.tree.Readdir(f.node, offset)
		if err != nil || !ok {
			return entries, err
		}
		entries = append(entries, p9.Dirent{QID: p9.QID{Version: 1, Path: e.Ino}, Offset: next, Type: p9.QIDType(e.Type), Name: string(e.Name)})
		offset = next
	}
	return entries, nil
}

func (f *otherFile) Close() error               { return nil }
func (f *otherFile) Renamed(p9.File, string)    {}
func (f *otherFile) StatFS() (p9.FSStat, error) { return p9.FSStat{}, nil }
func (f *otherFile) FSync() error               { return nil }
func (f *otherFile) Readlink() (string, error)  { return "", linux.EINVAL }
