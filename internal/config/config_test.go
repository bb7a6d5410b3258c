package config_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nineply/nineply/internal/config"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestDefaultFileIsTheDocumentedOne(t *testing.T) {
	c := config.Default(config.DefaultRoot, config.DefaultState)
	if err := c.Validate(); err != nil {
		t.Fatalf("defaults do not validate: %v", err)
	}
	var got bytes.Buffer
	if err := c.Write(&got); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("..", "..", "docs", "config.toml")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("docs/config.toml is not the default (run with -update):\n%s", diff)
	}
	back, err := config.Parse(config.Config{}, got.Bytes())
	if err != nil {
		t.Fatalf("the default file does not parse: %v", err)
	}
	if diff := cmp.Diff(c, back); diff != "" {
		t.Errorf("reading back what was written:\n%s", diff)
	}
}

func TestParse(t *testing.T) {
	base := config.Default("/r", "/s")
	tests := []struct {
		name, text, errPart string
		check               func(config.Config) bool
	}{
		{name: "empty", text: "", check: func(c config.Config) bool { return cmp.Equal(c, base) }},
		{name: "sizes and durations", text: "[cache]\nmax_size='1.5GiB'\n[fetch]\nread_timeout='1m'",
			check: func(c config.Config) bool {
				return c.Cache.MaxSize == 3<<29 && c.Fetch.ReadTimeout == config.Duration(time.Minute)
			}},
		{name: "state moves the sockets", text: "state='/elsewhere'",
			check: func(c config.Config) bool {
				return c.Listen.Control == "unix:/elsewhere/control.sock" && c.Root == "/r"
			}},
		{name: "unknown key", text: "[cache]\nmaxsize='1GiB'", errPart: "maxsize"},
		{name: "bad size", text: "[cache]\nmax_size='lots'", errPart: "64MiB"},
		{name: "negative duration", text: "[fetch]\nread_timeout='-1s'", errPart: "positive"},
		{name: "relative root", text: "root='here'", errPart: "absolute"},
		{name: "bad address", text: "[listen]\ncontrol='control.sock'", errPart: "unix:PATH"},
		{name: "no 9P listener", text: "[listen]\nninep=[]", errPart: "at least one"},
		{name: "bad mode", text: "[snapshotter]\nmount_mode='nfs'", errPart: "mount_mode"},
		{name: "bad level", text: "[log]\nlevel='loud'", errPart: "log.level"},
		{name: "no workers", text: "[fetch]\nconcurrency=0", errPart: "concurrency"},
		{name: "pull secrets", text: "[registry.kubernetes]\nsecrets=true\nnamespaces=['team-a']",
			check: func(c config.Config) bool {
				return c.Registry.Kubernetes.Secrets && c.Registry.Kubernetes.Namespaces[0] == "team-a" && c.Registry.CRI.Keep == config.Duration(12*time.Hour)
			}},
		{name: "bad namespace", text: "[registry.kubernetes]\nnamespaces=['../x']", errPart: "not a namespace"},
		{name: "CRI over TCP", text: "[registry.cri]\nlisten='tcp:127.0.0.1:1'", errPart: "registry.cri.listen"},
		{name: "CRI to itself", text: "[registry.cri]\nlisten='unix:/run/containerd/containerd.sock'", errPart: "same socket"},
		{name: "no share", text: "[fetch]\nbackground_share=0", errPart: "background_share"},
		{name: "not TOML", text: "=", errPart: ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := config.Parse(base, []byte(tt.text))
			switch {
			case tt.check == nil && err == nil:
				t.Error("accepted")
			case tt.check == nil && !strings.Contains(err.Error(), tt.errPart):
				t.Errorf("error %q does not mention %q", err, tt.errPart)
			case tt.check != nil && err != nil:
				t.Error(err)
			case tt.check != nil && !tt.check(c):
				t.Errorf("unexpected configuration %+v", c)
			}
		})
	}
}

func TestLoadMissingFile(t *testing.T) {
	base := config.Default("/r", "/s")
	missing := filepath.Join(t.TempDir(), "none.toml")
	if c, err := config.Load(base, missing, true); err != nil || !cmp.Equal(c, base) {
		t.Errorf("optional: %v, %+v", err, c)
	}
	if _, err := config.Load(base, missing, false); err == nil {
		t.Error("a named file that is missing was accepted")
	}
}

func TestSizeText(t *testing.T) {
	for text, want := range map[string]config.Size{"0": 0, "512": 512, "64KiB": 1 << 16, "20GiB": 20 << 30, "1kB": 1000, "2 MB": 2e6} {
		got, err := config.ParseSize(text)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
		if back, err := config.ParseSize(got.String()); err != nil || back != got {
			t.Errorf("%v does not read back: %v, %v", got, back, err)
		}
	}
	for _, text := range []string{"", "-1", "x", "1XiB", "NaN", "1e300"} {
		if n, err := config.ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %v", text, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("[cache]\nmax_size='1GiB'"))
	f.Add([]byte("state='/x'\n[listen]\nninep=['tcp:127.0.0.1:5640']"))
	base := config.Default("/r", "/s")
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := config.Parse(base, text)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := c.Write(&out); err != nil {
			t.Fatal(err)
		}
		back, err := config.Parse(config.Config{}, out.Bytes())
		if err != nil {
			t.Fatalf("own output does not parse: %v\n%s", err, out.String())
		}
		if back.Cache != c.Cache || back.Fetch != c.Fetch {
			t.Fatalf("lost values: %+v, %+v", c, back)
		}
	})
}
