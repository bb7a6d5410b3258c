package image

import (
	"errors"
	"testing"
	"time"

	"github.com/nineply/nineply/estargz"
)

func TestEarlyTOCsAreBounded(t *testing.T) {
	var e earlyTOCs
	now := time.Unix(1_700_000_000, 0)
	id := func(i int) layerID { return layerID{blob: estargz.Digest{byte(i), byte(i >> 8)}} }
	first := e.add(id(0), now)
	if first == nil || e.add(id(0), now) != nil {
		t.Fatal("one is not asked for once")
	}
	for i := range maxEarly {
		e.add(id(i), now)
	}
	if len(e.tocs) != maxEarly || e.add(id(maxEarly), now) != nil {
		t.Errorf("%d are kept", len(e.tocs))
	}
	half := make([]byte, maxEarlyBytes/2+1)
	e.arrived(id(0), first, half, estargz.Footer{}, nil)
	e.arrived(id(1), e.tocs[id(1)], half, estargz.Footer{}, nil)
	if e.tocs[id(1)] != nil || e.bytes != int64(len(half)) {
		t.Errorf("%d bytes are kept", e.bytes)
	}
	e.arrived(id(2), e.tocs[id(2)], nil, estargz.Footer{}, errors.New("no"))
	if e.tocs[id(2)] != nil {
		t.Error("an error is kept")
	}
	if e.take(id(0)) != first || e.bytes != 0 || e.take(id(0)) != nil {
		t.Error("what was taken is still there")
	}
	late := e.tocs[id(3)]
	e.add(id(maxEarly), now.Add(2*earlyLife))
	if len(e.tocs) != 1 {
		t.Errorf("%d are kept after their time", len(e.tocs))
	}
	e.arrived(id(3), late, half, estargz.Footer{}, nil)
	if e.bytes != 0 || len(e.tocs) != 1 {
		t.Errorf("%d bytes of one that came too late", e.bytes)
	}
}
