package idmap_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/idmap"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in, out string // out "" for an error
	}{
		{"0:100000:65536", "0:100000:65536"},
		{"5:1:1,0:100000:5", "0:100000:5,5:1:1"},
		{"0:0:4294967295", "0:0:4294967295"},
		{"0:4294967294:1", "0:4294967294:1"},
		{"", ""},
		{"0:1", ""},
		{"0:1:2:3", ""},
		{"0:1:0", ""},
		{"0:-1:5", ""},
		{"x:1:5", ""},
		{"0:4294967295:1", ""},
		{"1:0:4294967295", ""},
		{"0:100:10,9:200:10", ""},
		{"0:100:10,20:105:10", ""},
		{"0:1:1,", ""},
		{strings.TrimSuffix(strings.Repeat("0:1:1,", idmap.MaxExtents+1), ","), ""},
	} {
		m, err := idmap.Parse(tt.in)
		if (err != nil) != (tt.out == "") || m.String() != tt.out {
			t.Errorf("%q: %q, %v; want %q", tt.in, m, err, tt.out)
		}
		if err != nil && !errors.Is(err, idmap.ErrMap) {
			t.Errorf("%q: %v is no ErrMap", tt.in, err)
		}
	}
}

func TestShift(t *testing.T) {
	m, err := idmap.ParseMaps("0:100000:1000,1000:5:1", "0:200000:65536")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ uid, gid, hostUID, hostGID uint32 }{
		{0, 0, 100000, 200000},
		{999, 65535, 100999, 265535},
		{1000, 65536, 5, idmap.Overflow},
		{1001, 1, idmap.Overflow, 200001},
		{4294967295, 4294967295, idmap.Overflow, idmap.Overflow},
	} {
		if u, g := m.Shift(tt.uid, tt.gid); u != tt.hostUID || g != tt.hostGID {
			t.Errorf("%d:%d becomes %d:%d, want %d:%d", tt.uid, tt.gid, u, g, tt.hostUID, tt.hostGID)
		}
	}
	if u, g := (idmap.Maps{}).Shift(7, 8); u != 7 || g != 8 {
		t.Errorf("no maps shift 7:8 to %d:%d", u, g)
	}
}

func TestIdentity(t *testing.T) {
	for in, want := range map[string]bool{"0:0:4294967295": true, "0:0:10,20:20:5": true, "0:1:1": false, "0:0:10,20:21:5": false} {
		m, err := idmap.Parse(in)
		if err != nil || m.Identity() != want {
			t.Errorf("%s: %v, %v", in, m.Identity(), err)
		}
	}
}

func TestCut(t *testing.T) {
	const maps = "?uidmap=0:1:2&gidmap=0:3:4"
	for _, tt := range []struct {
		in, base, maps string
		bad            bool
	}{
		{"chain/sha256:a", "chain/sha256:a", "", false},
		{"image/oci:/dir?x=1", "image/oci:/dir?x=1", "", false},
		{"chain/sha256:a" + maps, "chain/sha256:a", maps, false},
		{maps, "", maps, false},
		{"chain/a?uidmap=0:1:2", "", "", true},
		{"chain/a?uidmap=0:1:2&gidmap=", "", "", true},
		{"chain/a?uidmap=&gidmap=0:1:2", "", "", true},
		{"chain/a" + maps + maps, "", "", true},
	} {
		base, m, err := idmap.Cut(tt.in)
		if base != tt.base || m.String() != tt.maps || (err != nil) != tt.bad {
			t.Errorf("%q: %q, %q, %v", tt.in, base, m, err)
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add("chain/sha256:a?uidmap=0:100000:65536&gidmap=0:100000:65536")
	f.Add("x?uidmap=0:1:1,5:9:2&gidmap=0:4294967294:1")
	f.Add("?uidmap=&gidmap=")
	f.Fuzz(func(t *testing.T, s string) {
		base, m, err := idmap.Cut(s)
		if err != nil || m.None() {
			return
		}
		again, n, err := idmap.Cut(base + m.String())
		if err != nil || again != base || n.String() != m.String() {
			t.Errorf("%q: %q, %q, %v after %q, %q", s, again, n, err, base, m)
		}
		if _, ok := m.UID.Host(4294967295); ok {
			t.Errorf("%q maps the number that is no ID", s)
		}
	})
}
