package p9server_test

import (
	"testing"

	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// No message that is answered from memory allocates, replies of every size
// included.
func TestNoAllocationPerMessage(t *testing.T) {
	if raceEnabled || testing.CoverMode() != "" {
		t.Skip("the instrumentation allocates")
	}
	tests := []struct {
		name  string
		steps []string
	}{
		{"walk getattr clunk", []string{`Twalk fid=0 newfid=# wname=["bin" "sh"]`, "Tgetattr fid=# mask=0x7ff", "Tclunk fid=#"}},
		{"open read clunk", []string{`Twalk fid=0 newfid=# wname=["big"]`, "Tlopen fid=#", "Tread fid=# count=4096", "Tread fid=# count=262144", "Tclunk fid=#"}},
		{"readdir", []string{`Twalk fid=0 newfid=# wname=["many"]`, "Tlopen fid=#", "Treaddir fid=# count=65536", "Tclunk fid=#"}},
		{"readlink", []string{`Twalk fid=0 newfid=# wname=["etc" "rc"]`, "Treadlink fid=#", "Tclunk fid=#"}},
		{"xattr", []string{`Twalk fid=0 newfid=# wname=["attrs"]`, `Txattrwalk fid=# newfid=10# name="user.a"`, "Tread fid=10# count=64", "Tclunk fid=10#", "Tclunk fid=#"}},
		{"xattr list", []string{`Txattrwalk fid=0 newfid=10#`, "Tread fid=10# count=64", "Tclunk fid=10#"}},
		{"other", []string{"Tstatfs fid=0", "Tflush oldtag=99", `Tlock fid=0 client="host"`, `Tgetlock fid=0 client="host"`, "Tfsync fid=0"}},
	}
	s := serve(t, p9test.Export(p9test.Reference(t)), p9server.Options{})
	l := newLanes(t, s.dial(), 1<<20)
	const q = 16
	for _, tt := range tests {
		var steps [][]byte
		for _, line := range tt.steps {
			steps = append(steps, each(t, q, line))
		}
		round := func() {
			for _, requests := range steps {
				l.step(requests, q)
			}
		}
		if allocs := testing.AllocsPerRun(200, round); allocs >= 1 {
			t.Errorf("%s: %.1f allocations for %d messages", tt.name, allocs, q*len(steps))
		}
	}
}

// Failed lookups and absent attributes are the most frequent replies of all.
func TestNoAllocationPerError(t *testing.T) {
	s := serve(t, p9test.Export(p9test.Reference(t)), p9server.Options{})
	c := s.client()
	requests := [][]byte{
		encode(t, `Twalk fid=0 newfid=1 wname=["missing"]`),
		encode(t, `Txattrwalk fid=0 newfid=1 name="security.capability"`),
		encode(t, "Tclunk fid=99"),
		encode(t, "Tunlinkat dirfd=0"),
	}
	buf := make([]byte, 11)
	nc := s.dial()
	defer func() { _ = nc.Close() }()
	l := newLanes(t, nc, 8192)
	allocs := testing.AllocsPerRun(200, func() {
		for _, request := range requests {
			if _, err := l.nc.Write(request); err != nil {
				t.Fatal(err)
			}
			if n, err := l.r.Read(buf); n != len(buf) || err != nil || buf[4] != 7 {
				t.Fatalf("reply of %d bytes, %v", n, err)
			}
		}
	})
	if allocs >= 1 {
		t.Errorf("%.1f allocations for %d messages", allocs, len(requests))
	}
	c.Exchange("Tclunk fid=0", "Rclunk tag=0")
}
