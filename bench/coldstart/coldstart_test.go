package main

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/coldstart"
	"github.com/nineply/nineply/internal/testbed"
)

func TestKind(t *testing.T) {
	p := places{"sha256:c": -1, "sha256:l": 1000}
	for _, test := range []struct {
		path     string
		from, to int64
		want     string
	}{
		{"/token", 0, -1, kindToken},
		{"/v2/demo/manifests/v1", 0, -1, kindManifest},
		{"/v2/demo/referrers/sha256:m", 0, -1, kindManifest},
		{"/v2/demo/blobs/sha256:c", 0, -1, kindConfig},
		{"/v2/demo/blobs/sha256:c", 0, 700, kindConfig},
		{"/v2/demo/blobs/sha256:l", 0, 1000, kindData},
		{"/v2/demo/blobs/sha256:l", 900, 1051, kindTOC},
		{"/v2/demo/blobs/sha256:l", 1000, 1051, kindTOC},
		{"/v2/demo/blobs/sha256:l", 0, -1, kindData},
		{"/v2/demo/blobs/sha256:other", 0, -1, kindData},
		{"/v2/", 0, -1, kindOther},
	} {
		if got := p.kind(&testbed.Request{Path: test.path, From: test.from, To: test.to}); got != test.want {
			t.Errorf("%s [%d,%d): %s, want %s", test.path, test.from, test.to, got, test.want)
		}
	}
}

func TestOutcome(t *testing.T) {
	began := time.Unix(1_700_000_000, 0)
	o := outcome{
		Result: coldstart.Result{Pull: 0.1, Create: 0.02, Run: 0.3, Total: 0.42}, began: began, places: places{"sha256:l": 1000},
		requests: []testbed.Request{
			{Method: "GET", Path: "/v2/demo/manifests/v1", To: -1, Status: 200, Bytes: 500, Began: began.Add(20 * time.Millisecond)},
			{Method: "GET", Path: "/v2/demo/blobs/sha256:l", From: 10, To: 20, Status: 206, Bytes: 10, Began: began.Add(200 * time.Millisecond)},
		},
	}
	v := o.values()
	for unit, want := range map[string]float64{
		"s-line": 0.42, "requests": 2, "bytes": 510, "manifest-requests": 1, "data-requests": 1, "data-bytes": 10, "toc-requests": 0,
	} {
		if v[unit] != want {
			t.Errorf("%s: %v, want %v", unit, v[unit], want)
		}
	}
	var line, list strings.Builder
	if err := o.print(&line, &variant{name: "lazy", bars: map[string]float64{"data-requests": 12}}); err != nil {
		t.Fatal(err)
	}
	if s := line.String(); !strings.HasPrefix(s, "Benchmarklazy 1 ") || !strings.Contains(s, " 12 data-requests-max ") {
		t.Errorf("printed %q", s)
	}
	if err := o.printTimeline(&list, "lazy", 1); err != nil {
		t.Fatal(err)
	}
	order := []string{"== lazy", "-- start", "manifest", "-- pulled", "-- created", "data", "-- first line"}
	at := 0
	for _, part := range order {
		i := strings.Index(list.String()[at:], part)
		if i < 0 {
			t.Fatalf("no %q in its place:\n%s", part, list.String())
		}
		at += i
	}
}

func TestVariants(t *testing.T) {
	names := map[string]bool{}
	for _, v := range variants() {
		if v.name == "" || v.image == nil || names[v.name] {
			t.Errorf("variant %q: no name, no image, or twice", v.name)
		}
		names[v.name] = true
	}
	if _, err := choose("none"); err == nil {
		t.Error("an unknown variant was chosen")
	}
	if got, err := choose("overlayfs"); err != nil || len(got) != 1 {
		t.Errorf("chose %v of %v, %v", len(got), slices.Sorted(maps.Keys(names)), err)
	}
}
