package fetch

import "testing"

func TestPlaces(t *testing.T) {
	p := newPlaces(200)
	for _, i := range []uint32{0, 63, 64, 199} {
		if p.has(i) || p.get(i) != 0 {
			t.Fatalf("chunk %d is known in the beginning", i)
		}
		p.set(i, 1000+2)
		if !p.has(i) || p.get(i) != 1002 || p.has(i^1) {
			t.Errorf("chunk %d: %v at %d", i, p.has(i), p.get(i))
		}
		p.forget(i, 7)
		if !p.has(i) {
			t.Errorf("chunk %d is forgotten for a place where it is not", i)
		}
	}
	p.rest()
	if !p.has(63) || p.get(63) != 0 {
		t.Errorf("after a rest: %v at %d", p.has(63), p.get(63))
	}
	p.forget(63, 0)
	p.set(64, 5)
	p.forget(64, 5)
	if p.has(63) || p.has(64) || !p.has(199) {
		t.Errorf("%v %v %v", p.has(63), p.has(64), p.has(199))
	}
}
