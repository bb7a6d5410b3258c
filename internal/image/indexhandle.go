package image

import (
	"fmt"
	"os"
)

// IndexFile opens the file of a tree's merged index, for another process to read.
// It is never written again, and stays readable when its name goes.
func (c *Catalog) IndexFile(t Tree) (*os.File, error) {
	f, err := os.Open(c.mergedPath(t.name))
	if err != nil {
		return nil, fmt.Errorf("merged index: %w", err)
	}
	return f, nil
}
