package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const output = `goos: linux
pkg: example.com/m/p9server
BenchmarkWalk/q=16-2   	  100	   200.0 ns/op	   0 allocs/op
BenchmarkWalk/q=16-2   	  100	   100.0 ns/op	   0 allocs/op
BenchmarkWalk/q=16-2   	  100	   400.0 ns/op	   3 allocs/op
BenchmarkRead  	  7	   1.5e+03 ns/op	  12.5 MB/s
BenchmarkSize-2  	  1	   0.7 index%	   1.0 index%-max	   90 hits	   95 hits-min	   3 other-max
some log line
PASS
ok  	example.com/m/p9server	1.2s
`

func TestRecord(t *testing.T) {
	var got bytes.Buffer
	if err := record(strings.NewReader(output), &got, io.Discard); err != nil {
		t.Fatal(err)
	}
	want := `{"name":"p9server/Read","value":12.5,"unit":"MB/s","n":1,"min":12.5,"max":12.5}
{"name":"p9server/Read","value":1500,"unit":"ns/op","n":1,"min":1500,"max":1500}
{"name":"p9server/Size","value":90,"unit":"hits","n":1,"min":90,"max":90,"bar":95,"met":false}
{"name":"p9server/Size","value":0.7,"unit":"index%","n":1,"min":0.7,"max":0.7,"bar":1,"met":true}
{"name":"p9server/Size","value":3,"unit":"other-max","n":1,"min":3,"max":3}
{"name":"p9server/Walk/q=16","value":0,"unit":"allocs/op","n":3,"min":0,"max":3}
{"name":"p9server/Walk/q=16","value":200,"unit":"ns/op","n":3,"min":100,"max":400}
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestRecordRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"nothing": "", "no benchmark": "PASS\n", "a failure": output + "FAIL\n", "a failed benchmark": "--- FAIL: BenchmarkX\n" + output,
	} {
		if err := record(strings.NewReader(in), io.Discard, io.Discard); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
