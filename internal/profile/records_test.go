package profile_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/profile"
)

func TestRecords(t *testing.T) {
	zero, two := 0, 2
	records := []profile.Record{
		{Path: "usr/bin/python3", ManifestDigest: "sha256:ab", LayerIndex: &zero},
		{Path: "etc/a <b> & c\n", LayerIndex: &two},
		{Path: "etc/passwd"},
	}
	var out strings.Builder
	if err := profile.WriteRecords(&out, records); err != nil {
		t.Fatal(err)
	}
	want := `{"path":"usr/bin/python3","manifestDigest":"sha256:ab","layerIndex":0}
{"path":"etc/a <b> & c\n","layerIndex":2}
{"path":"etc/passwd"}
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	got, err := profile.ReadRecords(strings.NewReader(strings.ReplaceAll(out.String(), `"etc/passwd"`, `"/etc/passwd"`) + "\n  \n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(records, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestReadRecordsRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want fserr.Kind
	}{
		"no JSON":        {"etc/passwd\n", fserr.Corrupt},
		"no path":        {`{"path":"/"}`, fserr.Corrupt},
		"another layer":  {`{"path":"a","layerIndex":-1}`, fserr.Corrupt},
		"a layer behind": {`{"path":"a","layerIndex":512}`, fserr.Corrupt},
		"a long line":    {`{"path":"` + strings.Repeat("a", 70_000) + `"}`, fserr.TooLarge},
	} {
		if _, err := profile.ReadRecords(strings.NewReader(tt.text)); !fserr.Is(err, tt.want) {
			t.Errorf("%s: %v, want kind %v", name, err, tt.want)
		}
	}
}

func FuzzReadRecords(f *testing.F) {
	f.Add(`{"path":"usr/bin/python3","manifestDigest":"sha256:ab","layerIndex":0}` + "\n")
	f.Add("{}\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		records, err := profile.ReadRecords(strings.NewReader(text))
		if err != nil {
			return
		}
		var out strings.Builder
		if err := profile.WriteRecords(&out, records); err != nil {
			t.Fatal(err)
		}
		again, err := profile.ReadRecords(strings.NewReader(out.String()))
		if err != nil || !cmp.Equal(records, again) {
			t.Fatalf("%v: %s", err, cmp.Diff(records, again))
		}
	})
}
