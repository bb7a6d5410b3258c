// Command record turns the output of go test -bench into JSON lines, one for
// each benchmark and unit: name, value (the median), unit, n, min and max.
//
// A benchmark that reports a unit U and a unit "U-max" or "U-min" says by the
// latter how much U may be at most or must be at least; the line of U has that as
// its bar, and whether all runs met it.
//
//	go test -run '^$' -bench . -count 5 ./p9server | go run ./bench/record
//
// The output is passed on to standard error as it comes, so that a person can
// watch.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// result is one line of the output.
type result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"` // the median
	Unit  string  `json:"unit"`
	N     int     `json:"n"` // runs
	Min   float64 `json:"min"`
	Max   float64 `json:"max"`

	Bar *float64 `json:"bar,omitempty"`
	Met *bool    `json:"met,omitempty"`
}

// The ends of a unit that is the bar of another.
const (
	atMost  = "-max"
	atLeast = "-min"
)

func main() {
	if err := record(os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

// key is what a value is of.
type key struct{ name, unit string }

// record reads benchmark output and writes results. Output that says FAIL, or
// that has no benchmark in it, is an error.
func record(r io.Reader, w, echo io.Writer) error {
	values := map[key][]float64{}
	var order []key
	pkg, failed := "", false
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		line := sc.Text()
		if _, err := fmt.Fprintln(echo, line); err != nil {
			return err
		}
		if p, ok := strings.CutPrefix(line, "pkg: "); ok {
			pkg = p[strings.LastIndexByte(p, '/')+1:]
		}
		failed = failed || strings.HasPrefix(line, "FAIL") || strings.HasPrefix(line, "--- FAIL")
		name, measures := parse(line)
		for unit, v := range measures {
			k := key{pkg + "/" + name, unit}
			if values[k] == nil {
				order = append(order, k)
			}
			values[k] = append(values[k], v)
		}
	}
	switch {
	case sc.Err() != nil:
		return sc.Err()
	case failed:
		return errors.New("a benchmark failed")
	case len(order) == 0:
		return errors.New("no benchmark in the input")
	}
	slices.SortFunc(order, func(a, b key) int {
		return strings.Compare(a.name+"\x00"+a.unit, b.name+"\x00"+b.unit)
	})
	enc := json.NewEncoder(w)
	for _, k := range order {
		slices.Sort(values[k])
	}
	for _, k := range order {
		if isBar(values, k) {
			continue
		}
		if err := enc.Encode(summarise(values, k)); err != nil {
			return err
		}
	}
	return nil
}

// summarise compares the sorted values of k with their bar.
func summarise(values map[key][]float64, k key) result {
	v := values[k]
	res := result{Name: k.name, Value: median(v), Unit: k.unit, N: len(v), Min: v[0], Max: v[len(v)-1]}
	if bar := values[key{k.name, k.unit + atMost}]; bar != nil {
		met := res.Max <= bar[0]
		res.Bar, res.Met = &bar[0], &met
	} else if bar := values[key{k.name, k.unit + atLeast}]; bar != nil {
		met := res.Min >= bar[0]
		res.Bar, res.Met = &bar[0], &met
	}
	return res
}

// isBar reports whether k is the bar of another value.
func isBar(values map[key][]float64, k key) bool {
	for _, end := range []string{atMost, atLeast} {
		if unit, ok := strings.CutSuffix(k.unit, end); ok && values[key{k.name, unit}] != nil {
			return true
		}
	}
	return false
}

// parse reads one line of a benchmark: its name without the number of CPUs, and
// what was measured by unit. Other lines have no measures.
func parse(line string) (name string, measures map[string]float64) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return "", nil
	}
	if _, err := strconv.Atoi(fields[1]); err != nil {
		return "", nil
	}
	name = strings.TrimPrefix(fields[0], "Benchmark")
	if dash := strings.LastIndexByte(name, '-'); dash > 0 {
		if _, err := strconv.Atoi(name[dash+1:]); err == nil {
			name = name[:dash]
		}
	}
	measures = map[string]float64{}
	for i := 2; i+1 < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return "", nil
		}
		measures[fields[i+1]] = v
	}
	return name, measures
}

// median of sorted values.
func median(v []float64) float64 {
	m := len(v) / 2
	if len(v)%2 == 1 {
		return v[m]
	}
	return (v[m-1] + v[m]) / 2
}
