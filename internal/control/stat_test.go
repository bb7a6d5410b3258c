package control_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
)

func (r *recorder) Stat(context.Context) (control.Stat, error) {
	return control.Stat{Misses: 3, Messages: []control.MessageStat{{Type: "walk", Count: 2}}}, r.err
}

func TestStat(t *testing.T) {
	r := &recorder{}
	c := serve(t, r)
	want, _ := r.Stat(t.Context())
	got, err := c.Stat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r.err = fserr.New(fserr.Closed, "stat", "server", nil)
	if _, err := c.Stat(t.Context()); err == nil {
		t.Error("no error")
	}
}
