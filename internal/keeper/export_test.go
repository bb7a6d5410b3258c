package keeper

// ParseHandover checks one packet as a head and as a mount, and tells how many
// pending reads the mount has.
func ParseHandover(b []byte) (reads int, err error) {
	var head handoverHead
	if parsePacket(b, &head) == nil {
		_ = head.check() // it only must not fail badly
	}
	var m handoverMount
	if err := parsePacket(b, &m); err != nil {
		return 0, err
	}
	return len(m.Mount.Pending), m.check()
}
