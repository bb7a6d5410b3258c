package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nineply/nineply/internal/fserr"
)

// Capability is what a host may be asked for.
type Capability uint8

// The capabilities of hosts.toml.
const (
	// Pull: manifests by digest and blobs.
	Pull Capability = 1 << iota
	// Resolve: tags.
	Resolve
	// Push: uploads.
	Push
	// Referrers: the referrers API.
	Referrers

	// All is what a host has when the file says nothing.
	All = Pull | Resolve | Push | Referrers
)

// Has reports whether c includes all of want.
func (c Capability) Has(want Capability) bool { return c&want == want }

// Host is one host to ask.
type Host struct {
	// Scheme is "http" or "https".
	Scheme string
	// Addr is the host with its port, if it has one.
	Addr string
	// Path is the root of the API, "/v2" by default, without a slash at the end.
	Path         string
	Capabilities Capability
	// Mirror: Addr is not the registry that the reference names, so requests
	// say which one is meant ("?ns=").
	Mirror bool
	// CA are files with certificates to trust beside the system's.
	CA []string
	// Client are pairs of files: certificate and key. An empty key means that
	// the first file holds both.
	Client [][2]string
	// SkipVerify switches off the check of the server's certificate.
	SkipVerify bool
	// Header is sent with each request to this host.
	Header http.Header
	// DialTimeout bounds making a connection; 0 means the default.
	DialTimeout time.Duration
}

// URL is the root of the API.
func (h Host) URL() *url.URL { return &url.URL{Scheme: h.Scheme, Host: h.Addr, Path: h.Path} }

// Config says where host configuration is found.
type Config struct {
	// Dirs are searched in order; the first that has a directory for the host,
	// or a _default, is used. Directories that do not exist are skipped.
	Dirs []string
	// PlainHTTP lists hosts, with port, reached by http though no file says so.
	// Loopback addresses always are, except at port 443.
	PlainHTTP []string
}

// dockerHub is where the registry called docker.io really is.
const (
	dockerHub     = "docker.io"
	dockerHubAddr = "registry-1.docker.io"
)

const (
	hostsFile    = "hosts.toml"
	maxFileBytes = 1 << 20
)

// Lookup gives the hosts to ask for images of a registry, in order. The last
// one is the authority: the registry itself, or the server that the file names
// in its place.
func (c Config) Lookup(registry string) ([]Host, error) {
	if !validHost(registry) {
		return nil, fserr.Newf(fserr.Invalid, "look up hosts of", fmt.Sprintf("%q", registry), "not a host name")
	}
	dir, err := c.find(registry)
	if err != nil {
		return nil, fserr.New(fserr.Invalid, "look up hosts of", registry, err)
	}
	hosts := []Host{{}}
	if dir != "" {
		if hosts, err = load(dir); err != nil {
			return nil, fserr.New(fserr.Invalid, "read hosts of", registry, err)
		}
	}
	last := &hosts[len(hosts)-1]
	if last.Addr == "" {
		c.fill(last, registry)
	}
	for i := range hosts {
		hosts[i].Mirror = hosts[i].Addr != registry && (registry != dockerHub || hosts[i].Addr != dockerHubAddr)
	}
	return hosts, nil
}

// Stamp changes when what Lookup would read for the registry changed. It costs
// a few stat calls.
func (c Config) Stamp(registry string) string {
	if !validHost(registry) {
		return ""
	}
	dir, err := c.find(registry)
	if err != nil || dir == "" {
		return fmt.Sprint(err)
	}
	stamp := dir
	for _, name := range []string{".", hostsFile} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err == nil {
			stamp += fmt.Sprintf("|%d.%d", fi.ModTime().UnixNano(), fi.Size())
		}
	}
	return stamp
}

// find gives the directory for the registry; empty if there is none.
func (c Config) find(registry string) (string, error) {
	for _, root := range c.Dirs {
		for _, name := range dirNames(registry) {
			dir := filepath.Join(root, name)
			fi, err := os.Stat(dir)
			switch {
			case err == nil && fi.IsDir():
				return dir, nil
			case err == nil, errors.Is(err, fs.ErrNotExist):
			default:
				return "", fmt.Errorf("stat host directory: %w", err)
			}
		}
	}
	return "", nil
}

// dirNames are the directories that may configure a registry: colons are
// awkward in file names, so "host:80" may be written "host_80_".
func dirNames(registry string) []string {
	names := make([]string, 0, 3)
	if i := strings.LastIndexByte(registry, ':'); i > 0 {
		names = append(names, registry[:i]+"_"+registry[i+1:]+"_")
	}
	return append(names, registry, "_default")
}

// fill makes h the registry itself.
func (c Config) fill(h *Host, registry string) {
	h.Addr, h.Path, h.Scheme, h.Capabilities = registry, "/v2", "https", All
	switch {
	case registry == dockerHub:
		h.Addr = dockerHubAddr
	case slices.Contains(c.PlainHTTP, registry), IsLoopback(registry):
		if _, port := splitPort(registry); port != "443" {
			h.Scheme = "http"
		}
	}
}

// IsLoopback reports whether an address, with or without port, is on this
// machine by its very name.
func IsLoopback(addr string) bool {
	host, _ := splitPort(addr)
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func splitPort(addr string) (host, port string) {
	if h, p, err := net.SplitHostPort(addr); err == nil {
		return h, p
	}
	return strings.Trim(addr, "[]"), ""
}

// validHost accepts what can be the host of a reference, and so refuses
// anything that would leave the directory when made part of a path.
func validHost(s string) bool {
	if s == "" || len(s) > 255 || strings.Contains(s, "..") || s[0] == '.' || s[0] == '_' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '-', c == '_', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return true
}

// load reads one host directory. The last host may lack an address.
func load(dir string) ([]Host, error) {
	path := filepath.Join(dir, hostsFile)
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return loadCertificates(dir)
	case err != nil:
		return nil, fmt.Errorf("stat hosts file: %w", err)
	case fi.Size() > maxFileBytes:
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", path, fi.Size(), maxFileBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read hosts file: %w", err)
	}
	if len(data) == 0 {
		return loadCertificates(dir)
	}
	hosts, err := Parse(data, dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return hosts, nil
}

// loadCertificates understands docker's layout: *.crt to trust, *.cert with
// *.key to show.
func loadCertificates(dir string) ([]Host, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read host directory: %w", err)
	}
	h := Host{Capabilities: All}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch ext := filepath.Ext(e.Name()); {
		case e.IsDir():
		case ext == ".crt":
			h.CA = append(h.CA, path)
		case ext == ".cert":
			key := strings.TrimSuffix(path, ext) + ".key"
			if _, err := os.Stat(key); errors.Is(err, fs.ErrNotExist) {
				key = ""
			}
			h.Client = append(h.Client, [2]string{path, key})
		}
	}
	return []Host{h}, nil
}
