package estargz

import "strings"

// IsLayerAnnotation reports whether a key of a layer descriptor says something of
// the very bytes of the layer: its TOC, its size, how a node gets at it. When the
// bytes are written anew, such an annotation is wrong, and two of them for
// different formats make some readers refuse the layer.
func IsLayerAnnotation(key string) bool {
	for _, prefix := range [...]string{
		"containerd.io/snapshot/stargz/", "containerd.io/snapshot/remote/", "io.containers.estargz.",
		"io.containers.zstd-chunked.", "io.github.containers.zstd-chunked.", "com.amazon.soci.",
	} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}
