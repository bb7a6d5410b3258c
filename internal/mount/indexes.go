package mount

import (
	"errors"
	"os"
	"sync"

	"github.com/nineply/nineply/layerindex"
)

// Indexes are the indexes that mounts have open, so that those of one tree share
// one. The zero value is empty. mu guards the map and the counts.
type Indexes struct {
	mu     sync.Mutex
	byTree map[string]*sharedIndex
}

// sharedIndex is an open index and how many mounts it has.
type sharedIndex struct {
	all   *Indexes
	tree  string
	head  []byte
	index *layerindex.Index
	file  *os.File // the same, for another process
	users int
}

// open takes over the file of a tree's index.
func (s *Indexes) open(tree string, file *os.File) (_ *sharedIndex, err error) {
	kept := false
	defer func() {
		if !kept {
			err = errors.Join(err, file.Close())
		}
	}()
	head, err := headOf(file)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.byTree[tree]; x != nil && sameHead(x.head, head) {
		x.users++
		return x, nil
	}
	index, err := layerindex.OpenFile(file)
	if err != nil {
		return nil, err
	}
	x := &sharedIndex{all: s, tree: tree, head: head, index: index, file: file, users: 1}
	kept = true
	if s.byTree == nil {
		s.byTree = make(map[string]*sharedIndex)
	}
	s.byTree[tree] = x
	return x, nil
}

// same tells ErrOtherTree if the file is another index.
func (x *sharedIndex) same(tree string, file *os.File) error {
	head, err := headOf(file)
	if err == nil && (tree != x.tree || !sameHead(x.head, head)) {
		err = ErrOtherTree
	}
	return err
}

// release takes back one user. Nobody may use the index after the last one.
func (x *sharedIndex) release() error {
	x.all.mu.Lock()
	defer x.all.mu.Unlock()
	if x.users--; x.users > 0 {
		return nil
	}
	if x.all.byTree[x.tree] == x {
		delete(x.all.byTree, x.tree)
	}
	return errors.Join(x.index.Close(), x.file.Close())
}
