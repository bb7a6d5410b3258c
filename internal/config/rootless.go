package config

import "path/filepath"

// Places are where a daemon's files are when nothing says otherwise.
type Places struct {
	Config, Root, State string
	// HostsDirs are containerd certs.d directories of the user, put before the system's.
	HostsDirs []string
}

// PlacesFor gives the places for the user euid in an environment. Root has those of
// the system. Everybody else has those of the XDG base directories, and so does root
// of a user namespace that rootlesskit made, who is somebody else outside of it.
func PlacesFor(euid int, getenv func(string) string) Places {
	if euid == 0 && getenv("ROOTLESSKIT_STATE_DIR") == "" {
		return Places{Config: DefaultPath, Root: DefaultRoot, State: DefaultState}
	}
	base := func(variable string, home ...string) string {
		if dir := getenv(variable); filepath.IsAbs(dir) {
			return dir
		}
		return filepath.Join(append([]string{"/", getenv("HOME")}, home...)...)
	}
	configs := base("XDG_CONFIG_HOME", ".config")
	p := Places{
		Config:    filepath.Join(configs, "nineply", "config.toml"),
		Root:      filepath.Join(base("XDG_DATA_HOME", ".local", "share"), "nineply"),
		HostsDirs: []string{filepath.Join(configs, "containerd", "certs.d"), filepath.Join(configs, "docker", "certs.d")},
	}
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		p.State = filepath.Join(dir, "nineply")
	} else {
		p.State = filepath.Join(p.Root, "run")
	}
	return p
}

// Defaults is the configuration for these places.
func (p Places) Defaults(root, state string) Config {
	c := Default(or(root, p.Root), or(state, p.State))
	c.Registry.HostsDirs = append(p.HostsDirs[:len(p.HostsDirs):len(p.HostsDirs)], c.Registry.HostsDirs...)
	return c
}
