package keeper

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTranslateHelper(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"vsock:2:5640 /mnt -o aname=image/x", "-daemon -connect vsock:2:5640 -- image/x /mnt"},
		{"unix:/s /mnt -sv -o ro,aname=a,wait=30s -o nosuid,x-systemd.automount,_netdev", "-wait=30s -nosuid -daemon -connect unix:/s -- a /mnt"},
		{"unix:/s /mnt -t nineply -N /ns -o aname=a,mode=fuse,patience=1m,readahead=4096,nodev,direct", "-mode=fuse -patience=1m -readahead=4096 -nodev -direct -daemon -connect unix:/s -- a /mnt"},
		{"unix:/s /mnt", ""},
		{"unix:/s -o aname=a", ""},
		{"unix:/s /mnt -o aname=a,rw", ""},
		{"unix:/s /mnt -o aname=a,frob", ""},
		{"unix:/s /mnt -o", ""},
	} {
		got, err := translateHelper(strings.Fields(tt.in))
		if tt.want == "" {
			if err == nil {
				t.Errorf("%q was accepted as %q", tt.in, got)
			}
			continue
		}
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%q gives %q, %v", tt.in, got, err)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"mounts":[{"aname":"a","target":"/x","options":{"patience":"3s"}}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		mounts, err := parseState(b)
		if err != nil {
			return
		}
		path := t.TempDir() + "/state"
		if err := saveState(path, mounts); err != nil {
			t.Fatal(err)
		}
		again, err := loadState(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(mounts, again); diff != "" && len(mounts) > 0 {
			t.Error(diff)
		}
	})
}
