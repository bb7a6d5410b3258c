package conformance_test

import (
	"io"
	"testing"

	"github.com/containerd/stargz-snapshotter/metadata"
	"github.com/containerd/stargz-snapshotter/metadata/testutil"

	"github.com/nineply/nineply/e2e/conformance/ours"
)

// TestMetadataReader is upstream's suite for metadata stores, run on ours.
func TestMetadataReader(t *testing.T) {
	passed := 0
	testutil.TestReader(&testutil.TestRunner{
		TestingT: t,
		Runner: func(parent testutil.TestingT, name string, fn func(testutil.TestingT)) {
			if parent.(*testing.T).Run(name, func(t *testing.T) { fn(t) }) {
				passed++
			}
		},
	}, func(sr *io.SectionReader, options ...metadata.Option) (testutil.TestableReader, error) {
		return ours.Open(sr, options...)
	})
	t.Logf("%d sub-tests passed", passed)
	if passed == 0 {
		t.Error("the suite ran nothing")
	}
}
