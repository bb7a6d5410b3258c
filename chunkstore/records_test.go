package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fserr"
)

func TestRecords(t *testing.T) {
	opt := chunkstore.Options{Dir: t.TempDir()}
	ctx := context.Background()
	s := open(t, opt)
	r := s.Records()
	big := bytes.Repeat([]byte("0123456789abcdef"), chunkstore.MaxRecord/16)
	for key, val := range map[string][]byte{
		"layer/a": []byte("1"), "layer/b": {}, "image/a": []byte("3"), "layer/c": nil, "big": big,
	} {
		if err := r.Put(ctx, key, val); err != nil {
			t.Fatalf("put %s: %v", key, err)
		}
	}
	for _, key := range []string{"layer/c", "never"} {
		if err := r.Delete(ctx, key); err != nil {
			t.Fatalf("delete %s: %v", key, err)
		}
	}
	if err := r.Put(ctx, "layer/a", []byte("2")); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	s = open(t, opt)
	if err := s.Rebuild(ctx, nil); err != nil { // leaves records alone
		t.Fatal(err)
	}
	r = s.Records()
	if diff := cmp.Diff(map[string]string{"layer/a": "2", "layer/b": ""}, walk(t, r, "layer/")); diff != "" {
		t.Error(diff)
	}
	if got := walk(t, r, ""); len(got) != 4 {
		t.Errorf("%d records", len(got))
	}
	if got, err := r.Get(ctx, "big"); err != nil || !bytes.Equal(got, big) {
		t.Errorf("big: %d bytes, %v", len(got), err)
	}
	if _, err := r.Get(ctx, "layer/c"); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("deleted: %v", err)
	}
}

func walk(t *testing.T, r *chunkstore.Records, prefix string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := r.Walk(context.Background(), prefix, func(key string, val []byte) error {
		got[key] = string(val)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestRecordsRefuse(t *testing.T) {
	s := open(t, chunkstore.Options{Dir: t.TempDir()})
	r, ctx := s.Records(), context.Background()
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	_, getEmpty := r.Get(ctx, "")
	stop := errors.New("stop")
	if err := r.Put(ctx, "k", nil); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		err  error
		kind fserr.Kind
	}{
		{"get without key", getEmpty, fserr.Invalid},
		{"put without key", r.Put(ctx, "", nil), fserr.Invalid},
		{"key too long", r.Put(ctx, strings.Repeat("k", 1025), nil), fserr.Invalid},
		{"value too long", r.Put(ctx, "k", make([]byte, chunkstore.MaxRecord+1)), fserr.TooLarge},
		{"canceled put", r.Put(canceled, "k", nil), fserr.Canceled},
		{"canceled walk", r.Walk(canceled, "", nil), fserr.Canceled},
	}
	for _, tt := range tests {
		if !fserr.Is(tt.err, tt.kind) {
			t.Errorf("%s: %v", tt.name, tt.err)
		}
	}
	if err := r.Walk(ctx, "", func(string, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("walk: %v", err)
	}
}

func TestWalkMayChangeRecords(t *testing.T) {
	s := open(t, chunkstore.Options{Dir: t.TempDir()})
	r, ctx := s.Records(), context.Background()
	for _, key := range []string{"a/1", "a/2", "a/3"} {
		if err := r.Put(ctx, key, nil); err != nil {
			t.Fatal(err)
		}
	}
	err := r.Walk(ctx, "a/", func(key string, _ []byte) error {
		return errors.Join(r.Delete(ctx, key), r.Put(ctx, "b"+key[1:], nil))
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"b/1": "", "b/2": "", "b/3": ""}, walk(t, r, "")); diff != "" {
		t.Error(diff)
	}
}
