package estargz

import (
	"path"
	"strings"
)

// cleanName is the one form of a tar name: without leading slash, ".", ".." and
// empty components. The root is "". Names that try to leave the root stay in it.
func cleanName(name string) string {
	if isClean(name) {
		return name
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// isClean spares the common case the work.
func isClean(name string) bool {
	start := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		switch part := name[start:i]; part {
		case "", ".", "..":
			return name == ""
		}
		start = i + 1
	}
	return true
}
