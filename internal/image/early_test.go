package image_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
)

// twoLayers is an image of two lazy layers in a registry.
func twoLayers(t *testing.T, tag string) (*testreg.Registry, testreg.Added) {
	t.Helper()
	reg := testreg.New(t)
	return reg, reg.AddImage("demo", tag, testreg.Image{Layers: []testreg.Layer{
		lazyLayer(t, file{name: "a", body: "in a"}), lazyLayer(t, file{name: "b", body: "in b"}),
	}})
}

// The layers' tables of contents are asked for beside the config: here the config
// does not come before they were.
func TestTOCsAreAskedForEarly(t *testing.T) {
	reg, im := twoLayers(t, "v1")
	var asked []chan struct{}
	for _, l := range im.Layers {
		ch := make(chan struct{})
		asked = append(asked, ch)
		reg.On(testreg.Match{Digest: l.Digest}, func(x testreg.Exchange) {
			close(ch)
			x.Serve(x.W, x.R)
		})
	}
	reg.On(testreg.Match{Digest: im.Config.Digest}, func(x testreg.Exchange) {
		for _, ch := range asked {
			select {
			case <-ch:
			case <-x.Closing:
			case <-time.After(3 * time.Second): // the test fails then
				t.Error("the config came before all tables of contents were asked for")
			}
		}
		x.Serve(x.W, x.R)
	})
	n, _ := start(t, t.TempDir(), 0)
	check(t, n.tree(t, image.AttachImage+reg.Ref("demo", "v1")), map[string]string{"a": "in a", "b": "in b"})
	for _, l := range im.Layers { // the table of contents, and the file
		if got := reg.Count(testreg.Match{Digest: l.Digest}).Requests; got > 2 {
			t.Errorf("layer %s was asked for %d times", l.Digest, got)
		}
	}
}

// An early request that fails is made again by whoever opens the layer.
func TestEarlyRequestFails(t *testing.T) {
	reg, im := twoLayers(t, "v1")
	for _, l := range im.Layers {
		reg.On(testreg.Match{Digest: l.Digest}, testreg.Times(2, testreg.Status(http.StatusBadGateway))...)
	}
	n, _ := start(t, t.TempDir(), 0)
	check(t, n.tree(t, image.AttachImage+reg.Ref("demo", "v1")), map[string]string{"a": "in a", "b": "in b"})
}

// What came early for an image that is not one is of no use.
func TestEarlyRequestsOfABrokenImage(t *testing.T) {
	reg, im := twoLayers(t, "v1")
	reg.Always(testreg.Match{Digest: im.Config.Digest}, testreg.WrongBytes())
	n, stop := start(t, t.TempDir(), 0)
	if _, _, err := n.Open(t.Context(), image.AttachImage+reg.Ref("demo", "v1")); !fserr.Is(err, fserr.Corrupt) {
		t.Errorf("opened an image with a wrong config: %v", err)
	}
	if layers := n.Layers(); len(layers) != 0 {
		t.Errorf("layers were opened: %+v", layers)
	}
	stop() // waits for what is under way
}
