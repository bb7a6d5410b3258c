package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// The places used when no flag or file says otherwise.
const (
	DefaultPath  = "/etc/nineply/config.toml"
	DefaultRoot  = "/var/lib/nineply"
	DefaultState = "/run/nineply"
)

// Config is the whole configuration of one daemon.
type Config struct {
	Root  string `toml:"root" comment:"What must survive a restart: the chunk cache, layer indexes, snapshots."`
	State string `toml:"state" comment:"Sockets and mount points; emptied by a reboot."`

	Listen      Listen      `toml:"listen"`
	Registry    Registry    `toml:"registry"`
	Cache       Cache       `toml:"cache"`
	Fetch       Fetch       `toml:"fetch"`
	Index       Index       `toml:"index"`
	Profiles    Profiles    `toml:"profiles"`
	Snapshotter Snapshotter `toml:"snapshotter"`
	Log         Log         `toml:"log"`
}

// Listen says where the daemon serves. An address is unix:PATH or tcp:HOST:PORT.
type Listen struct {
	NineP       []string `toml:"ninep" comment:"9P2000.L, for the mount keeper, guests and tools: unix:PATH or tcp:HOST:PORT."`
	Control     string   `toml:"control" comment:"The API of the nineply command."`
	Snapshotter string   `toml:"snapshotter" comment:"containerd's proxy plugin socket; empty: no snapshotter."`
	Keeper      string   `toml:"keeper" comment:"The control socket of nineply-mount serve."`
	Metrics     string   `toml:"metrics" comment:"Prometheus metrics, tcp:HOST:PORT; empty: on the control socket only, at /metrics."`
}

// Registry says how registries are reached.
type Registry struct {
	HostsDirs    []string `toml:"hosts_dirs" comment:"containerd certs.d directories with hosts.toml files, the first that knows a host wins."`
	DockerConfig string   `toml:"docker_config" comment:"docker config.json with credentials and helpers; empty: DOCKER_CONFIG or ~/.docker."`
	Timeout      Duration `toml:"timeout" comment:"How long a request may go without any byte arriving."`

	Kubernetes Kubernetes `toml:"kubernetes"`
	CRI        CRI        `toml:"cri"`
}

// Cache bounds the chunk store.
type Cache struct {
	MaxSize Size `toml:"max_size" comment:"Most bytes that chunks may occupy; 0: no limit."`
}

// Fetch bounds the fetch scheduler and the reads that wait for it.
type Fetch struct {
	Concurrency int      `toml:"concurrency" comment:"Range requests in flight, all registries together."`
	ReadAhead   Size     `toml:"read_ahead" comment:"How far a sequential reader is read ahead at most."`
	ReadTimeout Duration `toml:"read_timeout" comment:"A read that has not been answered by then fails with EIO."`
	Prefetch    bool     `toml:"prefetch" comment:"Fetch the range that an image's landmark names as soon as it is mounted."`

	Background      bool     `toml:"background" comment:"Fetch the rest of an image when it is in use and nobody waits for bytes, and verify all of it: blob digests, diff IDs, and every file. What is not as its image claims is not served any more."`
	BackgroundDelay Duration `toml:"background_delay" comment:"How long nobody must have waited for bytes before that begins."`
	BackgroundShare int      `toml:"background_share" comment:"The part of the bandwidth that it takes, in percent."`
	BackgroundRate  Size     `toml:"background_rate" comment:"Most bytes per second that it fetches, besides; 0: no limit."`

	Strict bool `toml:"strict" comment:"Use nothing of a layer before all of it was read and found to have the diff ID that its image claims. Starts then take as long as a full pull."`
}

// Index says which indexes that lie beside an image are used without being pulled by
// hand. An index is trusted with the names, attributes and content of an image's files.
type Index struct {
	SOCI      bool     `toml:"soci" comment:"Use the SOCI index that an image index names by digest (SOCI index manifest v2)."`
	SOCIv1    bool     `toml:"soci_v1" comment:"Use SOCI indexes that refer to an image (v1). Who can push into a repository can change what its images contain."`
	Referrers bool     `toml:"referrers" comment:"Use indexes pushed with \"nineply index push\". Who can push into a repository can change what its images contain."`
	Pins      []string `toml:"pins" comment:"Digests of indexes of either kind that are used even so."`
}

// Profiles says what is done with access profiles: what images read when they start.
type Profiles struct {
	Record    bool `toml:"record" comment:"Note what an image reads first whenever it is used."`
	Use       bool `toml:"use" comment:"Fetch what the profile of an image names as soon as it is mounted."`
	Referrers bool `toml:"referrers" comment:"Look for a profile beside an image that has none here, as \"nineply profile push\" leaves it. The worst that a wrong one does is to have more of the image fetched."`
}

// Snapshotter tunes the containerd plugin.
type Snapshotter struct {
	MountMode string `toml:"mount_mode" comment:"auto (FUSE where there is FUSE, which survives the daemon at the least cost), v9fs (the kernel's 9P client) or fuse."`
	Fallback  bool   `toml:"fallback" comment:"Let containerd pull a layer that no source of ours can serve, instead of failing the pull."`
	Handover  string `toml:"handover" comment:"shared (containers of an image share one mount of this host) or raw (containerd 2.2 and later, or a runtime of virtual machines, mounts 9P for each container)."`
}

// Log says how much is logged.
type Log struct {
	Level string `toml:"level" comment:"debug, info, warn or error."`
}

// Default is the configuration of a daemon that keeps its files below root and
// its sockets below state.
func Default(root, state string) Config {
	sock := func(name string) string { return "unix:" + filepath.Join(state, name) }
	return Config{
		Root: root, State: state,
		Listen: Listen{
			NineP:       []string{sock("9p.sock")},
			Control:     sock("control.sock"),
			Snapshotter: sock("snapshotter.sock"),
			Keeper:      sock("keeper.sock"),
		},
		Registry: Registry{
			HostsDirs: []string{"/etc/containerd/certs.d", "/etc/docker/certs.d"}, Timeout: Duration(30 * time.Second),
			Kubernetes: Kubernetes{Namespaces: []string{}}, CRI: CRI{Runtime: "unix:/run/containerd/containerd.sock", Keep: Duration(12 * time.Hour)},
		},
		Cache:       Cache{MaxSize: 20 << 30},
		Fetch:       Fetch{Concurrency: 16, ReadAhead: 8 << 20, ReadTimeout: Duration(60 * time.Second), Prefetch: true, Background: true, BackgroundDelay: Duration(5 * time.Second), BackgroundShare: 50},
		Index:       Index{SOCI: true, Pins: []string{}},
		Profiles:    Profiles{Record: true, Use: true},
		Snapshotter: Snapshotter{MountMode: "auto", Fallback: true, Handover: "shared"},
		Log:         Log{Level: "info"},
	}
}

// Load reads the file at path over base. A file that does not exist is an error
// unless optional; unknown keys and malformed values always are.
func Load(base Config, path string, optional bool) (Config, error) {
	text, err := os.ReadFile(path)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return base, nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	c, err := Parse(base, text)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// Parse lays TOML text over base. When the text moves root or state, the
// defaults below them move along.
func Parse(base Config, text []byte) (Config, error) {
	var dirs struct {
		Root  string `toml:"root"`
		State string `toml:"state"`
	}
	if err := toml.Unmarshal(text, &dirs); err != nil {
		return Config{}, err
	}
	c := base
	if dirs.Root != "" || dirs.State != "" {
		c = Default(or(dirs.Root, base.Root), or(dirs.State, base.State))
		c.Registry.HostsDirs = base.Registry.HostsDirs // the user's, wherever the rest is
	}
	dec := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return Config{}, fmt.Errorf("unknown key:\n%s", strict.String())
		}
		return Config{}, err
	}
	return c, c.Validate()
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Validate reports the first value that cannot work.
func (c Config) Validate() error {
	for key, dir := range map[string]string{"root": c.Root, "state": c.State} {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("%s: %q is not an absolute path", key, dir)
		}
	}
	if err := c.Listen.validate(); err != nil {
		return err
	}
	if c.Fetch.Concurrency < 1 || c.Fetch.Concurrency > 1024 {
		return fmt.Errorf("fetch.concurrency: %d is not between 1 and 1024", c.Fetch.Concurrency)
	}
	if err := c.Registry.validate(); err != nil {
		return err
	}
	if c.Fetch.BackgroundShare < 1 || c.Fetch.BackgroundShare > 100 {
		return fmt.Errorf("fetch.background_share: %d is not between 1 and 100", c.Fetch.BackgroundShare)
	}
	for _, pin := range c.Index.Pins {
		if !pinPattern().MatchString(pin) {
			return fmt.Errorf("index.pins: %q is not sha256:<64 hex digits>", pin)
		}
	}
	switch c.Snapshotter.MountMode {
	case "auto", "v9fs", "fuse":
	default:
		return fmt.Errorf("snapshotter.mount_mode: %q is none of auto, v9fs, fuse", c.Snapshotter.MountMode)
	}
	if h := c.Snapshotter.Handover; h != "shared" && h != "raw" {
		return fmt.Errorf("snapshotter.handover: %q is none of shared, raw", h)
	}
	switch c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		return fmt.Errorf("log.level: %q is none of debug, info, warn, error", c.Log.Level)
	}
	return nil
}

func (l Listen) validate() error {
	if len(l.NineP) == 0 {
		return errors.New("listen.ninep: at least one address is needed")
	}
	required := append([]string{l.Control, l.Keeper}, l.NineP...)
	for _, addr := range required {
		if _, _, err := SplitAddress(addr); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	for _, addr := range []string{l.Snapshotter, l.Metrics} {
		if _, _, err := SplitAddress(addr); addr != "" && err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	return nil
}

func pinPattern() *regexp.Regexp { return regexp.MustCompile(`^sha256:[0-9a-f]{64}$`) }

// SplitAddress splits unix:PATH or tcp:HOST:PORT into what net.Listen wants.
func SplitAddress(addr string) (network, address string, err error) {
	network, address, ok := strings.Cut(addr, ":")
	if !ok || address == "" || (network != "unix" && network != "tcp") {
		return "", "", fmt.Errorf("address %q: want unix:PATH or tcp:HOST:PORT", addr)
	}
	return network, address, nil
}

// Write prints c as a TOML file with a comment for every key.
func (c Config) Write(w io.Writer) error {
	enc := toml.NewEncoder(w).SetIndentTables(false)
	if err := enc.Encode(c); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return nil
}
