//go:build !unix

package layerindex

func rest([]byte) {} // no mapping
