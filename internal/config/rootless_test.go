package config_test

import (
	"slices"
	"testing"

	"github.com/nineply/nineply/internal/config"
)

func TestPlacesFor(t *testing.T) {
	xdg := map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7", "XDG_DATA_HOME": "/data", "XDG_CONFIG_HOME": "/conf"}
	kit := map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7", "ROOTLESSKIT_STATE_DIR": "/x"}
	for _, c := range []struct {
		name                string
		euid                int
		env                 map[string]string
		config, root, state string
	}{
		{"root", 0, xdg, config.DefaultPath, config.DefaultRoot, config.DefaultState},
		{"user", 7, xdg, "/conf/nineply/config.toml", "/data/nineply", "/run/user/7/nineply"},
		{"user without anything but a home", 7, map[string]string{"HOME": "/home/u"}, "/home/u/.config/nineply/config.toml", "/home/u/.local/share/nineply", "/home/u/.local/share/nineply/run"},
		{"relative paths are invalid", 7, map[string]string{"HOME": "/home/u", "XDG_DATA_HOME": "data", "XDG_RUNTIME_DIR": "run"}, "/home/u/.config/nineply/config.toml", "/home/u/.local/share/nineply", "/home/u/.local/share/nineply/run"},
		{"root of rootlesskit", 0, kit, "/home/u/.config/nineply/config.toml", "/home/u/.local/share/nineply", "/run/user/7/nineply"},
		{"nothing", 7, nil, "/.config/nineply/config.toml", "/.local/share/nineply", "/.local/share/nineply/run"},
	} {
		p := config.PlacesFor(c.euid, func(k string) string { return c.env[k] })
		if p.Config != c.config || p.Root != c.root || p.State != c.state {
			t.Errorf("%s: %+v", c.name, p)
		}
		d := p.Defaults("", "")
		if err := d.Validate(); err != nil || d.Root != c.root || d.Listen.Control != "unix:"+c.state+"/control.sock" {
			t.Errorf("%s: %+v, %v", c.name, d, err)
		}
		moved, err := config.Parse(d, []byte("root = '/elsewhere'"))
		if err != nil || moved.Root != "/elsewhere" || !slices.Equal(moved.Registry.HostsDirs, d.Registry.HostsDirs) {
			t.Errorf("%s: moved: %+v, %v", c.name, moved, err)
		}
	}
}
