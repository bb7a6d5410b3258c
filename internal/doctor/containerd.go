package doctor

import (
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strconv"

	"github.com/pelletier/go-toml/v2"
)

// Release is a version of containerd, as far as its configuration depends on it.
type Release struct{ Major, Minor int }

var releasePattern = regexp.MustCompile(`\sv?(\d+)\.(\d+)\.\d+`)

// ParseRelease reads what "containerd --version" prints.
func ParseRelease(output string) (Release, error) {
	m := releasePattern.FindStringSubmatch(output)
	if m == nil {
		return Release{}, fmt.Errorf("no version in %.100q", output)
	}
	major, errMajor := strconv.Atoi(m[1])
	minor, errMinor := strconv.Atoi(m[2])
	return Release{major, minor}, errors.Join(errMajor, errMinor)
}

func (r Release) atLeast(major, minor int) bool {
	return r.Major > major || r.Major == major && r.Minor >= minor
}

func (r Release) String() string { return fmt.Sprintf("%d.%d", r.Major, r.Minor) }

// Registration is how containerd is to know the snapshotter.
type Registration struct {
	Release Release
	Name    string // of the snapshotter; some clients know none but "stargz"
	Address string // path of its socket
	Root    string // directory whose file system kubelet is to watch
	CRI     bool   // pods use it
}

// ErrConfig is wrapped where a configuration of containerd cannot be completed.
var ErrConfig = errors.New("containerd's configuration")

// The names of plugins in containerd's configuration.
const (
	transferPlugin = "io.containerd.transfer.v1.local"
	criPluginTwo   = "io.containerd.grpc.v1.cri"
	criPluginThree = "io.containerd.cri.v1.images"
)

// table is a table of a configuration.
type table = map[string]any

// sub gives a table below t, which is made if need be.
func sub(t table, keys ...string) (table, error) {
	for _, key := range keys {
		switch v := t[key].(type) {
		case nil:
			next := table{}
			t[key] = next
			t = next
		case table:
			t = v
		default:
			return nil, fmt.Errorf("%w: %s is no table", ErrConfig, key)
		}
	}
	return t, nil
}

// Complete gives containerd's configuration, TOML, with all that the snapshotter
// needs added to it, and what was added or changed. What was right already stays,
// and so does everything else but comments. text may be empty.
func (r Registration) Complete(text []byte) (out []byte, changes []string, err error) {
	c := table{}
	if err := toml.Unmarshal(text, &c); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	e := editor{}
	version := int64(2)
	if r.Release.Major >= 2 {
		version = 3
	}
	switch v := c["version"].(type) {
	case nil:
		if len(c) > 0 {
			return nil, nil, fmt.Errorf("%w has no version: convert it with \"containerd config migrate\"", ErrConfig)
		}
		e.set(c, "version", version)
	case int64:
		if version = v; v < 2 {
			return nil, nil, fmt.Errorf("%w has version %d: convert it with \"containerd config migrate\"", ErrConfig, v)
		}
	default:
		return nil, nil, fmt.Errorf("%w: version is no number", ErrConfig)
	}
	e.proxy(c, r)
	if r.Release.Major >= 2 {
		e.transfer(c, r.Name)
	}
	if r.CRI {
		e.cri(c, version, r)
	}
	if e.err != nil {
		return nil, nil, e.err
	}
	if len(e.changes) == 0 {
		return text, nil, nil
	}
	if out, err = toml.Marshal(c); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return out, e.changes, nil
}

// editor changes a configuration and notes what.
type editor struct {
	changes []string
	err     error
}

func (e *editor) set(t table, key string, value any) {
	if t[key] != value {
		t[key] = value
		e.changes = append(e.changes, fmt.Sprintf("%s = %v", key, value))
	}
}

func (e *editor) table(t table, keys ...string) table {
	found, err := sub(t, keys...)
	if err != nil {
		e.err = errors.Join(e.err, err)
		return table{}
	}
	return found
}

// proxy registers the socket.
func (e *editor) proxy(c table, r Registration) {
	p := e.table(c, "proxy_plugins", r.Name)
	e.set(p, "type", "snapshot")
	e.set(p, "address", r.Address)
	exports := e.table(p, "exports")
	e.set(exports, "root", r.Root)
	if r.Release.atLeast(2, 1) {
		e.set(exports, "enable_remote_snapshot_annotations", "true")
	}
	if !r.Release.atLeast(1, 7) {
		return // unknown there
	}
	has, _ := p["capabilities"].([]any)
	kept := slices.DeleteFunc(slices.Clone(has), func(v any) bool { return v == "rebase" })
	if !slices.Contains(kept, any("remap-ids")) {
		kept = append(kept, "remap-ids")
	}
	if !slices.Equal(has, kept) {
		p["capabilities"] = kept
		e.changes = append(e.changes, fmt.Sprintf("capabilities = %v", kept))
	}
}

// transfer has the transfer service unpack into the snapshotter. A list replaces
// the default one, so overlayfs, which is that, has to be in it.
func (e *editor) transfer(c table, name string) {
	t := e.table(c, "plugins", transferPlugin)
	list, _ := t["unpack_config"].([]any)
	for _, snapshotter := range []string{"overlayfs", name} {
		if slices.ContainsFunc(list, func(v any) bool {
			entry, _ := v.(table)
			return entry["snapshotter"] == snapshotter
		}) {
			continue
		}
		list = append(list, table{"platform": "linux/" + runtime.GOARCH, "snapshotter": snapshotter})
		e.changes = append(e.changes, "unpack_config of "+snapshotter)
	}
	t["unpack_config"] = list
}

// cri has pods use the snapshotter. From 2.1 on, pulls of pods go through the
// transfer service, unless something of the older way is set.
func (e *editor) cri(c table, version int64, r Registration) {
	keys := []string{"plugins", criPluginThree}
	if version == 2 {
		keys = []string{"plugins", criPluginTwo, "containerd"}
	}
	t := e.table(c, keys...)
	e.set(t, "snapshotter", r.Name)
	if !r.Release.atLeast(2, 1) || t["disable_snapshot_annotations"] == true {
		e.set(t, "disable_snapshot_annotations", false)
	}
}
