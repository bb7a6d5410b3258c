// Command tables writes the figures of bench/results into the tables of a document.
//
// A table stands between two marks and is replaced as a whole:
//
//	<!-- bench:AREA [PREFIX] [of UNIT...] -->
//	...
//	<!-- /bench -->
//
// It has the lines of bench/results/AREA.jsonl whose names begin with PREFIX, and of them
// those with the units that are named, and says which command made them. An area without results keeps the table that is there.
//
//	go run ./bench/tables [-check] [-results DIR] DOCUMENT...
//
// With -check nothing is written, and a document that is not as the results say is an
// error.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// run is the first line of a file of results.
type run struct {
	Area   string `json:"area"`
	Commit string `json:"commit"`
	Go     string `json:"go"`
	Kernel string `json:"kernel"`
	CPUs   int    `json:"cpus"`
	Date   string `json:"date"`
}

// result is every other line.
type result struct {
	Name  string   `json:"name"`
	Value float64  `json:"value"`
	Unit  string   `json:"unit"`
	N     int      `json:"n"`
	Min   float64  `json:"min"`
	Max   float64  `json:"max"`
	Bar   *float64 `json:"bar"`
	Met   *bool    `json:"met"`
}

const (
	markStart = "<!-- bench:"
	markClose = " -->"
	markEnd   = "<!-- /bench -->"
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail if a document is out of date")
	results := flag.String("results", "bench/results", "directory of the results")
	flag.Parse()
	for _, path := range flag.Args() {
		if err := update(path, *results, *check); err != nil {
			fmt.Fprintln(os.Stderr, "tables:", err)
			os.Exit(1)
		}
	}
}

// update rewrites one document, or compares it.
func update(path, results string, check bool) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, err := fill(string(old), results)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case text == string(old):
		return nil
	case check:
		return fmt.Errorf("%s is not what %s says: go run ./bench/tables %s", path, results, path)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// fill replaces every table of a document.
func fill(text, results string) (string, error) {
	var out strings.Builder
	for {
		before, rest, ok := strings.Cut(text, markStart)
		out.WriteString(before)
		if !ok {
			return out.String(), nil
		}
		spec, rest, ok := strings.Cut(rest, markClose+"\n")
		if !ok {
			return "", fmt.Errorf("a mark that does not end: %.40q", rest)
		}
		old, rest, ok := strings.Cut(rest, markEnd)
		if !ok {
			return "", fmt.Errorf("the table of %q has no end", spec)
		}
		table, err := tableOf(spec, results)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			table = old
		case err != nil:
			return "", err
		}
		out.WriteString(markStart + spec + markClose + "\n" + table + markEnd)
		text = rest
	}
}

// tableOf makes the table of an area and a prefix of names.
func tableOf(spec, results string) (string, error) {
	spec, list, some := strings.Cut(spec, " of ")
	units := strings.Fields(list)
	area, prefix, _ := strings.Cut(spec, " ")
	text, err := os.ReadFile(filepath.Join(results, area+".jsonl"))
	if err != nil {
		return "", err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	var r run
	if !lines.Scan() {
		return "", fmt.Errorf("the results of %s are empty", area)
	}
	if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
		return "", fmt.Errorf("the results of %s: %w", area, err)
	}
	var t strings.Builder
	fmt.Fprintf(&t, "`make bench BENCH=%s` on %s, commit %s, %s, Linux %s, %d CPUs.\n\n", area, day(r.Date), r.Commit, r.Go, r.Kernel, r.CPUs)
	t.WriteString("| | median | unit | min | max | n | bar |\n|---|--:|---|--:|--:|--:|---|\n")
	rows := 0
	for lines.Scan() {
		var m result
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return "", fmt.Errorf("the results of %s: %w", area, err)
		}
		name := strings.TrimPrefix(m.Name, area+"/")
		if !strings.HasPrefix(name, prefix) || some && !slices.Contains(units, m.Unit) {
			continue
		}
		rows++
		fmt.Fprintf(&t, "| %s | %s | %s | %s | %s | %d | %s |\n", name, number(m.Value), m.Unit, number(m.Min), number(m.Max), m.N, bar(m))
	}
	if rows == 0 {
		return "", fmt.Errorf("no result of %s begins with %q and has one of the units %q", area, prefix, units)
	}
	return t.String(), lines.Err()
}

func day(date string) string {
	d, _, _ := strings.Cut(date, "T")
	return d
}

// number has three digits that say something, and all of those before the point.
func number(v float64) string {
	switch a := max(v, -v); {
	case a >= 100 || a == float64(int64(a)):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
}

func bar(m result) string {
	if m.Bar == nil || m.Met == nil {
		return ""
	}
	if *m.Met {
		return number(*m.Bar) + ", met"
	}
	return number(*m.Bar) + ", **not met**"
}
