package main

import (
	"fmt"
	"slices"
)

// The bars: what Nineply's rate must be of another's.
const (
	faster        = 1.0
	muchFaster    = 5.0 // than p9, with 16 in flight
	ofEchoSmall   = 0.8
	ofEchoLarge   = 0.6
	maxFIDBytes   = 100
	maxAllocsRead = 0.01
)

// bars gives those of a row: the least ratio by the other's name.
func bars(op *operation, lanes int) map[string]float64 {
	m := map[string]float64{diodName: faster, otherName: faster, otherTreeName: faster}
	if lanes > 1 {
		m[otherName] = muchFaster
	}
	switch {
	case op.small:
		m[echoName] = ofEchoSmall
	case op.large:
		m[echoName] = ofEchoLarge
	}
	return m
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// compare prints the ratios of the medians with their bars.
func (b *bench) compare() error {
	for i := range operations {
		for _, lanes := range lanesMeasured {
			line := b.ratios(&operations[i], lanes)
			if line == "" {
				continue
			}
			if _, err := fmt.Fprintf(b.out, "Benchmarkratio/%s 1%s\n", row(&operations[i], lanes), line); err != nil {
				return err
			}
		}
	}
	if b.find(diodName) == nil {
		_, err := fmt.Fprintln(b.out, "Benchmarkdiod/missing 1 1 missing 0 missing-max")
		return err
	}
	return nil
}

// ratios gives what our rate of a row is of the others', "" if it was not measured.
func (b *bench) ratios(op *operation, lanes int) (line string) {
	ours := median(b.rates[row(op, lanes)+"/"+oursName])
	if ours == 0 {
		return ""
	}
	least := bars(op, lanes)
	for _, srv := range b.servers {
		other := median(b.rates[row(op, lanes)+"/"+srv.name])
		if srv.name == oursName || other == 0 {
			continue
		}
		line += fmt.Sprintf(" %.4g of-%s", ours/other, srv.name)
		if bar, ok := least[srv.name]; ok {
			line += fmt.Sprintf(" %g of-%s-min", bar, srv.name)
		}
	}
	return line
}

// find gives the server of a name, nil if it is not there.
func (b *bench) find(name string) *server {
	i := slices.IndexFunc(b.servers, func(s *server) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	return b.servers[i]
}
