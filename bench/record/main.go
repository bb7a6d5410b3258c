// Command record turns the output of go test -bench into JSON lines, one for
// each benchmark and unit: name, value (the median), unit, n, min and max.
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
}

func main() {
	if err := record(os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

// record reads benchmark output and writes results. Output that says FAIL, or
// that has no benchmark in it, is an error.
func record(r io.Reader, w, echo io.Writer) error {
	type key struct{ name, unit string }
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
		v := values[k]
		slices.Sort(v)
		if err := enc.Encode(result{k.name, median(v), k.unit, len(v), v[0], v[len(v)-1]}); err != nil {
			return err
		}
	}
	return nil
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
