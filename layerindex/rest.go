package layerindex

// Rest gives the memory back that the index has come to take in this process by being
// read. Nothing is lost: what is read next comes from the page cache, or from the
// file. It must not run during or after Close.
func (x *Index) Rest() { rest(x.data) }
