package hosts

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"golang.org/x/net/http/httpguts"
)

// maxHosts bounds the hosts of one file.
const maxHosts = 64

// table is one host of the file; also the file's own level, which configures
// the server.
type table struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// Parse reads a hosts.toml. Files it names are relative to dir. The result has
// the host tables in the order of the file, then the server, whose Addr is
// empty when the file names none.
func Parse(data []byte, dir string) ([]Host, error) {
	var file struct {
		table
		Server string           `toml:"server"`
		Host   map[string]table `toml:"host"`
	}
	if err := toml.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if len(file.Host) > maxHosts {
		return nil, fmt.Errorf("%d hosts, at most %d are read", len(file.Host), maxHosts)
	}
	names, err := order(data)
	if err != nil {
		return nil, err
	}
	var hosts []Host
	for _, name := range names {
		t, ok := file.Host[name]
		if !ok {
			continue
		}
		delete(file.Host, name) // a name may head several tables
		h, err := t.host(name, dir)
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", name, err)
		}
		if h.Addr == "" {
			return nil, fmt.Errorf("host %q: no host name", name)
		}
		hosts = append(hosts, h)
	}
	if len(file.Host) > 0 {
		return nil, fmt.Errorf("%d hosts without a [host.\"...\"] table of their own have no order", len(file.Host))
	}
	server, err := file.host(file.Server, dir)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	return append(hosts, server), nil
}

// order lists the hosts as their tables follow each other in the file, which
// the decoder's map has lost.
func order(data []byte) ([]string, error) {
	var names []string
	seen := map[string]bool{}
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table {
			continue
		}
		var parts []string
		for it := e.Key(); it.Next(); {
			parts = append(parts, string(it.Node().Data))
		}
		if len(parts) >= 2 && parts[0] == "host" && !seen[parts[1]] {
			seen[parts[1]] = true
			names = append(names, parts[1])
		}
	}
	if err := p.Error(); err != nil {
		return nil, fmt.Errorf("order of hosts: %w", err)
	}
	return names, nil
}

func (t table) host(server, dir string) (Host, error) {
	h := Host{SkipVerify: t.SkipVerify}
	var err error
	if server != "" {
		if err = h.locate(server, t.OverridePath); err != nil {
			return Host{}, err
		}
	}
	if h.Capabilities, err = capabilities(t.Capabilities); err != nil {
		return Host{}, err
	}
	if h.CA, err = fileList(t.CA, dir); err != nil {
		return Host{}, fmt.Errorf("ca: %w", err)
	}
	if h.Client, err = filePairs(t.Client, dir); err != nil {
		return Host{}, fmt.Errorf("client: %w", err)
	}
	if h.Header, err = header(t.Header); err != nil {
		return Host{}, fmt.Errorf("header: %w", err)
	}
	if t.DialTimeout != "" {
		if h.DialTimeout, err = time.ParseDuration(t.DialTimeout); err != nil {
			return Host{}, fmt.Errorf("dial_timeout: %w", err)
		}
		if h.DialTimeout < 0 {
			return Host{}, fmt.Errorf("dial_timeout: %s is negative", t.DialTimeout)
		}
	}
	return h, nil
}

// locate sets scheme, address and path from an address that may be a bare host.
func (h *Host) locate(server string, overridePath bool) error {
	if !strings.HasPrefix(server, "http://") && !strings.HasPrefix(server, "https://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	switch {
	case err != nil:
		return fmt.Errorf("address: %w", err)
	case u.Host == "" || u.Opaque != "":
		return fmt.Errorf("address %q has no host", server)
	case u.User != nil:
		return fmt.Errorf("address of %q must not hold credentials", u.Host)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("address %q must end with the path", server)
	}
	h.Scheme, h.Addr = u.Scheme, u.Host
	if u.Path != "" {
		h.Path = strings.TrimSuffix(path.Clean(u.Path), "/")
	}
	if !overridePath && !strings.HasSuffix(h.Path, "/v2") {
		h.Path += "/v2"
	}
	return nil
}

func capabilities(names []string) (Capability, error) {
	if len(names) == 0 {
		return All, nil
	}
	var c Capability
	for _, name := range names {
		switch strings.ToLower(name) {
		case "pull":
			c |= Pull
		case "resolve":
			c |= Resolve
		case "push":
			c |= Push
		case "referrers":
			c |= Referrers
		default:
			return 0, fmt.Errorf("unknown capability %q", name)
		}
	}
	return c, nil
}

// fileList reads a file name or a list of them.
func fileList(v any, dir string) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{within(dir, v)}, nil
	case []any:
		out := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("%v is not a file name", e)
			}
			out = append(out, within(dir, s))
		}
		return out, nil
	}
	return nil, fmt.Errorf("%v is neither a file name nor a list of them", v)
}

// filePairs reads a file name, a list of them, or a list of pairs.
func filePairs(v any, dir string) ([][2]string, error) {
	list, ok := v.([]any)
	if !ok {
		files, err := fileList(v, dir)
		if err != nil || files == nil {
			return nil, err
		}
		return [][2]string{{files[0], ""}}, nil
	}
	out := make([][2]string, 0, len(list))
	for _, e := range list {
		files, err := fileList(e, dir)
		if err != nil {
			return nil, err
		}
		if _, single := e.(string); single {
			out = append(out, [2]string{files[0], ""})
			continue
		}
		if len(files) != 2 {
			return nil, fmt.Errorf("%v is not a pair of certificate and key", e)
		}
		out = append(out, [2]string{files[0], files[1]})
	}
	return out, nil
}

func header(m map[string]any) (http.Header, error) {
	if len(m) == 0 {
		return nil, nil
	}
	h := make(http.Header, len(m))
	for key, v := range m {
		values, ok := v.([]any)
		if !ok {
			values = []any{v}
		}
		for _, e := range values {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("%s: %v is not a string", key, e)
			}
			if !httpguts.ValidHeaderFieldName(key) || !httpguts.ValidHeaderFieldValue(s) {
				return nil, fmt.Errorf("%q is not a valid header field", key)
			}
			h.Add(key, s)
		}
	}
	return h, nil
}

func within(dir, file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}
