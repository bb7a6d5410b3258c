package snapshotter_test

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"

	"github.com/nineply/nineply/snapshotter"
	"github.com/nineply/nineply/snapshotter/contracttest"
)

func TestContract(t *testing.T) {
	for _, tt := range []struct {
		name       string
		overSocket bool
	}{{"in process", false}, {"over a socket", true}} {
		t.Run(tt.name, func(t *testing.T) {
			contracttest.Run(t, func(t *testing.T) contracttest.Subject { return newSubject(t, tt.overSocket) })
		})
	}
}

func newSubject(t *testing.T, overSocket bool) contracttest.Subject {
	b := newFakeBackend(t)
	root := t.TempDir()
	foreign := digest.FromString("foreign diff").String()
	s := contracttest.Subject{
		Open: func(ctx context.Context) (snapshots.Snapshotter, error) {
			return open(ctx, root, b, overSocket)
		},
		Foreign: contracttest.Layer{ChainID: foreign, Labels: map[string]string{
			snapshotter.LabelImageRef:    testRef,
			snapshotter.LabelLayerDigest: digest.FromString("foreign blob").String(),
		}},
		Files: map[string]string{"f0": "app layer 0", "f1": "app layer 1", "f2": "app layer 2", "same": "app layer 2"},
	}
	for _, l := range b.addImage("app", 3) {
		s.Layers = append(s.Layers, contracttest.Layer{ChainID: l.chain, Labels: l.labels})
	}
	return s
}
