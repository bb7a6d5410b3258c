package fetch

import "testing"

func TestBufferSizes(t *testing.T) {
	var pool bufferPool
	last, lastLength := 0, 1<<smallestBuffer
	for n := 1; n <= 1<<largestBuffer; n += 1 + n/64 {
		k, length := pool.size(n)
		if length < n || k >= len(pool) {
			t.Fatalf("%d bytes: number %d, length %d", n, k, length)
		}
		if again, same := pool.size(length); again != k || same != length {
			t.Fatalf("%d bytes: number %d, length %d, whose own are %d and %d", n, k, length, again, same)
		}
		if n > 1<<smallestBuffer && length > n+n/4+1 {
			t.Errorf("%d bytes in %d", n, length)
		}
		if k < last || k == last && length != lastLength {
			t.Errorf("%d bytes: number %d after %d", n, k, last)
		}
		last, lastLength = k, length
	}
	if k, _ := pool.size(1<<largestBuffer + 1); k < len(pool) {
		t.Errorf("more than the largest has number %d of %d", k, len(pool))
	}
}
