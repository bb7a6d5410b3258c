package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/coldstart"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/testbed"
)

// outcome is what one run showed, up to the first line.
type outcome struct {
	coldstart.Result
	began, line time.Time
	requests    []testbed.Request
	conns       int64 // connections made
	status      control.Status
	places      places

	// first is the status before the start, ended that when the container had ended,
	// and fetching are all the requests until then: what it read is held against what
	// was fetched for it.
	first, ended control.Status
	fetching     []testbed.Request
}

// The kinds of requests.
const (
	kindToken    = "token"
	kindManifest = "manifest"
	kindConfig   = "config"
	kindTOC      = "toc"
	kindData     = "data"
	kindOther    = "other"
)

// places tells for blobs, by digest, where their data ends. What lies behind that
// is a table of contents; an image's config has no data.
type places map[string]int64

// add notes the blobs of an image.
func (p places) add(ctx context.Context, src source.Repository, im *source.Image) error {
	p[im.Manifest.Config.Digest.String()] = -1
	for _, desc := range im.Manifest.Layers {
		blob, err := src.Blob(ctx, im.Ref, desc)
		if err != nil {
			return err
		}
		tail := make([]byte, min(blob.Size(), estargz.FooterSize))
		if err := blob.ReadRange(ctx, blob.Size()-int64(len(tail)), tail); err != nil {
			return err
		}
		footer, err := estargz.ParseFooter(tail)
		if err != nil {
			return fmt.Errorf("layer %s: %w", desc.Digest, err)
		}
		p[desc.Digest.String()] = footer.DataEnd()
	}
	return nil
}

// kind sorts a request by what it asks for.
func (p places) kind(q *testbed.Request) string {
	_, digest, blob := strings.Cut(q.Path, "/blobs/")
	switch {
	case strings.Contains(q.Path, "/token"):
		return kindToken
	case strings.Contains(q.Path, "/manifests/"), strings.Contains(q.Path, "/referrers/"):
		return kindManifest
	case !blob:
		return kindOther
	}
	end, known := p[digest]
	switch {
	case known && end < 0:
		return kindConfig
	case known && q.To > end:
		return kindTOC
	}
	return kindData
}

// values are what was measured, by unit.
func (o *outcome) values() map[string]float64 {
	v := map[string]float64{
		"s-line": o.Total, "s-pull": o.Pull, "s-create": o.Create, "s-run": o.Run,
		"conns": float64(o.conns), "misses": float64(o.status.Fetch.Misses - o.first.Fetch.Misses),
	}
	for _, kind := range []string{kindToken, kindManifest, kindConfig, kindTOC, kindData, kindOther} {
		v[kind+"-requests"], v[kind+"-bytes"] = 0, 0
	}
	for i := range o.requests {
		q := &o.requests[i]
		kind := o.places.kind(q)
		v[kind+"-requests"]++
		v[kind+"-bytes"] += float64(q.Bytes)
		v["requests"]++
		v["bytes"] += float64(q.Bytes)
	}
	o.addAccount(v)
	return v
}

// addAccount adds what the daemon says of the image: how many bytes of blobs the
// chunks need that the whole run read, and how many times as many were fetched; and
// the reads that had to wait.
func (o *outcome) addAccount(v map[string]float64) {
	var read *control.Account
	for i := range o.ended.Trees {
		a := o.ended.Trees[i].Account
		if a != nil && a.Start != nil && (read == nil || a.Start.Needed > read.Start.Needed) {
			read = a
		}
	}
	if read == nil || read.Start.Needed == 0 {
		return
	}
	fetched := int64(0)
	for i := range o.fetching {
		if q := &o.fetching[i]; o.places.kind(q) == kindData {
			fetched += q.Bytes
		}
	}
	v["needed-bytes"] = float64(read.Start.Needed)
	v["fetched-per-needed"] = float64(fetched) / float64(read.Start.Needed)
	v["demand-requests"] = float64(o.ended.Fetch.Requests["demand"] - o.first.Fetch.Requests["demand"])
	v["late-reads"] = float64(read.Late)
	v["unknown-reads"] = float64(read.Unknown)
}

// print writes the run as a line of a benchmark.
func (o *outcome) print(w io.Writer, v *variant) error {
	values := o.values()
	for unit, bar := range v.bars {
		values[unit+"-max"] = bar
	}
	line := "Benchmark" + v.name + " 1"
	for _, unit := range slices.Sorted(maps.Keys(values)) {
		line += fmt.Sprintf(" %g %s", values[unit], unit)
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

// printTimeline lists the requests and what happened between them, in
// milliseconds since the start, as the registry saw it.
func (o *outcome) printTimeline(w io.Writer, name string, number int) error {
	type event struct {
		at   time.Time
		text string
	}
	pulled := o.began.Add(seconds(o.Pull))
	created := pulled.Add(seconds(o.Create))
	events := []event{{o.began, "-- start"}, {pulled, "-- pulled"}, {created, "-- created"}, {created.Add(seconds(o.Run)), "-- first line"}}
	ms := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return fmt.Sprintf("%.1f", t.Sub(o.began).Seconds()*1e3)
	}
	for i := range o.requests {
		q := &o.requests[i]
		path := q.Path[strings.LastIndexByte(q.Path, '/')+1:]
		events = append(events, event{q.Began, fmt.Sprintf("%-8s %-4s %d answered %s ended %s, %d bytes [%d,%d) %.24s",
			o.places.kind(q), q.Method, q.Status, ms(q.Answered), ms(q.Ended), q.Bytes, q.From, q.To, path)})
	}
	slices.SortStableFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	if _, err := fmt.Fprintf(w, "== %s, run %d\n", name, number); err != nil {
		return err
	}
	for _, e := range events {
		if _, err := fmt.Fprintf(w, "%8s %s\n", ms(e.at), e.text); err != nil {
			return err
		}
	}
	return nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
