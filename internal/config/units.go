package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written "512", "64KiB", "20GiB", "1.5MB" or "0".
type Size int64

type sizeUnit struct {
	suffix string
	factor float64
}

// sizeUnits lists the units, the binary ones first and by size.
func sizeUnits() []sizeUnit {
	return []sizeUnit{
		{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
		{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
		{"B", 1},
	}
}

// ParseSize reads the text form of a [Size]. Negative sizes and sizes beyond
// 2^62 bytes are errors.
func ParseSize(s string) (Size, error) {
	text, factor := strings.TrimSpace(s), 1.0
	for _, u := range sizeUnits() {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			text, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || n < 0 || n*factor > 1<<62 {
		return 0, fmt.Errorf("size %q: want a number with a unit, such as 64MiB or 20GiB", s)
	}
	return Size(n * factor), nil
}

// UnmarshalText reads the text form.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := ParseSize(string(text))
	if err != nil {
		return err
	}
	*s = n
	return nil
}

// MarshalText writes the text form.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String uses the largest binary unit that divides the size.
func (s Size) String() string {
	units := sizeUnits()
	for i := 3; i >= 0; i-- {
		if f := Size(units[i].factor); s >= f && s%f == 0 {
			return strconv.FormatInt(int64(s/f), 10) + units[i].suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Duration is a span of time, written as Go and containerd write it: "30s".
type Duration time.Duration

// UnmarshalText reads the text form. Negative durations are errors.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("duration %q: want a positive span, such as 30s or 5m", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes the text form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String writes the text form.
func (d Duration) String() string { return time.Duration(d).String() }
