package daemon

import (
	"bytes"
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"time"
)

const (
	// heapGrowth is how much garbage there may be for what is in use, percent.
	heapGrowth = 50
	// heapLimit is what the collector tries to stay below, as long as what is in use
	// leaves room for garbage. It makes up for bursts: a table of contents, many
	// fetches.
	heapLimit = 96 << 20

	// tendEvery is how often the daemon looks at what it takes.
	tendEvery = 2 * time.Second
	// mappedLimit is how much of mapped files may be resident before indexes give
	// theirs back: about four of large images, beside the program.
	mappedLimit = 64 << 20
	// quietAllocs is how much an idle daemon allocates between two looks, bytes.
	quietAllocs = 1 << 20
	// quietTicks of that make a daemon idle.
	quietTicks = 4
)

// tuneMemory sets how the collector works, unless the environment says so.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(heapLimit)
	}
}

// tendMemory keeps the daemon small, until ctx ends: while it works, what it has
// mapped is bounded; when it has had nothing to do for a while, once, whatever it can
// get back cheaply goes to the system.
func (p *parts) tendMemory(ctx context.Context) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	fixed := os.Getenv("GOMEMLIMIT") != ""
	last, quiet := heapUsage(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := heapUsage()
		if quiet++; now.allocated-last.allocated > quietAllocs {
			quiet = 0
		}
		last = now
		switch {
		case quiet == quietTicks:
			p.service.catalog.Rest(true)
			p.service.store.Rest()
			debug.FreeOSMemory()
			restProgram()
			last = heapUsage()
		case quiet < quietTicks && mappedResident() > mappedLimit:
			p.service.catalog.Rest(false)
		}
		if !fixed { // with more than that in use, to collect all the time would not help
			debug.SetMemoryLimit(max(heapLimit, now.live+now.live/2))
		}
	}
}

// usage is the state of the heap, bytes.
type usage struct {
	live      int64 // after the last collection
	allocated int64 // ever
}

func heapUsage() usage {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	value := func(i int) int64 {
		if s[i].Value.Kind() != metrics.KindUint64 {
			return 0 // a runtime that does not know it
		}
		return int64(s[i].Value.Uint64())
	}
	return usage{live: value(0), allocated: value(1)}
}

// mappedResident is how many bytes of mapped files the process has, 0 where that is
// not known.
func mappedResident() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := bytes.Fields(text)
	if len(f) < 3 {
		return 0
	}
	pages, err := strconv.ParseInt(string(f[2]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
