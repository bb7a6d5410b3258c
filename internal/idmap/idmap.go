package idmap

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// MaxExtents bounds the ranges of one map. The kernel takes 340; Kubernetes and
// the usual tools write one to three.
const MaxExtents = 16

// Overflow is the owner of files whose own has no place in the namespace, the
// kernel's default for such.
const Overflow = 65534

// ErrMap is wrapped by all errors of this package.
var ErrMap = errors.New("bad ID mapping")

// extent maps size IDs, from inside on, to those from host on.
type extent struct{ inside, host, size uint32 }

// Map maps IDs of a container to those of the host. The zero Map maps none.
type Map struct{ extents []extent }

// Parse reads "container:host:size" ranges separated by commas. Ranges must not
// be empty, reach past the last ID, or overlap on either side: two IDs of a
// container never become one.
func Parse(s string) (Map, error) {
	var m Map
	for entry := range strings.SplitSeq(s, ",") {
		if len(m.extents) == MaxExtents {
			return Map{}, fmt.Errorf("%w: more than %d ranges", ErrMap, MaxExtents)
		}
		e, err := parseExtent(entry)
		if err != nil {
			return Map{}, err
		}
		m.extents = append(m.extents, e)
	}
	slices.SortFunc(m.extents, func(a, b extent) int { return cmp.Compare(a.inside, b.inside) })
	for _, start := range []func(extent) uint32{func(e extent) uint32 { return e.host }, func(e extent) uint32 { return e.inside }} {
		if overlap(m.extents, start) {
			return Map{}, fmt.Errorf("%w: ranges of %.128q overlap", ErrMap, s)
		}
	}
	return m, nil
}

func parseExtent(entry string) (extent, error) {
	parts := strings.Split(entry, ":")
	if len(parts) != 3 {
		return extent{}, fmt.Errorf("%w: %.64q is not container:host:size", ErrMap, entry)
	}
	var n [3]uint32
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return extent{}, fmt.Errorf("%w: %.64q is not container:host:size: %w", ErrMap, entry, err)
		}
		n[i] = uint32(v)
	}
	e := extent{inside: n[0], host: n[1], size: n[2]}
	// The last number is no ID: it stands for "no change" in chown.
	if e.size == 0 || max(e.inside, e.host) > math.MaxUint32-e.size {
		return extent{}, fmt.Errorf("%w: %.64q is empty or reaches past the last ID", ErrMap, entry)
	}
	return e, nil
}

func overlap(extents []extent, start func(extent) uint32) bool {
	sorted := slices.SortedFunc(slices.Values(extents), func(a, b extent) int { return cmp.Compare(start(a), start(b)) })
	for i := 1; i < len(sorted); i++ {
		if start(sorted[i]) < start(sorted[i-1])+sorted[i-1].size {
			return true
		}
	}
	return false
}

// Host gives the host's ID for one of the container; ok is false if it has none.
func (m Map) Host(inside uint32) (host uint32, ok bool) {
	for _, e := range m.extents {
		if inside >= e.inside && inside-e.inside < e.size {
			return e.host + (inside - e.inside), true
		}
	}
	return 0, false
}

// shift is Host with [Overflow] for what has no place.
func (m Map) shift(inside uint32) uint32 {
	if host, ok := m.Host(inside); ok {
		return host
	}
	return Overflow
}

// Identity says that whatever has a place keeps its number.
func (m Map) Identity() bool {
	return !slices.ContainsFunc(m.extents, func(e extent) bool { return e.inside != e.host })
}

// String writes the ranges as Parse reads them, by ascending ID of the container.
func (m Map) String() string {
	var b strings.Builder
	for i, e := range m.extents {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d:%d:%d", e.inside, e.host, e.size)
	}
	return b.String()
}

// Maps are those of users and of groups. The zero value shifts nothing.
type Maps struct{ UID, GID Map }

// ParseMaps reads both maps.
func ParseMaps(uid, gid string) (Maps, error) {
	u, err := Parse(uid)
	if err != nil {
		return Maps{}, fmt.Errorf("users: %w", err)
	}
	g, err := Parse(gid)
	if err != nil {
		return Maps{}, fmt.Errorf("groups: %w", err)
	}
	return Maps{UID: u, GID: g}, nil
}

// None says that nothing is shifted.
func (m Maps) None() bool { return len(m.UID.extents) == 0 && len(m.GID.extents) == 0 }

// Shift gives the owners on the host of a file that has these in its image.
func (m Maps) Shift(uid, gid uint32) (hostUID, hostGID uint32) {
	if m.None() {
		return uid, gid
	}
	return m.UID.shift(uid), m.GID.shift(gid)
}

const (
	uidMark = "?uidmap="
	gidMark = "&gidmap="
)

// String is what is appended to an attach name; the same maps give the same
// text.
func (m Maps) String() string {
	if m.None() {
		return ""
	}
	return uidMark + m.UID.String() + gidMark + m.GID.String()
}

// Cut takes the maps off the end of an attach name. A name without any gives the
// zero Maps.
func Cut(aname string) (base string, m Maps, err error) {
	base, maps, ok := strings.Cut(aname, uidMark)
	if !ok {
		return aname, Maps{}, nil
	}
	uid, gid, ok := strings.Cut(maps, gidMark)
	if !ok {
		return "", Maps{}, fmt.Errorf("%w: %.128q lacks the groups", ErrMap, maps)
	}
	if m, err = ParseMaps(uid, gid); err != nil {
		return "", Maps{}, err
	}
	return base, m, nil
}
