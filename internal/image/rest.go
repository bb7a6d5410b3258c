package image

// Rest gives memory back that open trees and layers take to be fast. The kernel has
// the pages of their indexes still, as long as it has nothing better to do with them.
// With all, what is known of where chunks are in the store goes as well, and is
// looked up again when they are read.
func (c *Catalog) Rest(all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	for _, t := range c.trees {
		t.index.Rest()
	}
	for _, l := range c.layers {
		l.index.Rest()
		if all {
			l.bytes.Rest()
		}
	}
}
