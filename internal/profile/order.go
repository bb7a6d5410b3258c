package profile

import "bytes"

// IsEncoded reports whether data begins as the file of a profile does.
func IsEncoded(data []byte) bool { return bytes.HasPrefix(data, []byte(magic)) }
