package registry_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/source/sourcetest"
	"github.com/nineply/nineply/internal/testreg"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open makes a client that does not really wait.
func open(t *testing.T, opts registry.Options) *registry.Registry {
	t.Helper()
	if opts.Sleep == nil {
		opts.Sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	}
	r := registry.New(opts)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestSuite(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []testreg.Option
		reg  registry.Options
	}{
		{name: "plain"},
		{name: "redirects", opts: []testreg.Option{testreg.WithRedirects()}},
		{name: "chunked push", reg: registry.Options{ChunkSize: 1 << 10}},
		{name: "anonymous tokens", opts: []testreg.Option{testreg.WithBearer("", ""), testreg.WithRedirects()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T) sourcetest.Harness {
				reg := testreg.New(t, tt.opts...)
				return sourcetest.Harness{
					Backend: open(t, tt.reg),
					Ref:     func(target string) string { return reg.Ref("suite/repo", target) },
				}
			})
		})
	}
}
