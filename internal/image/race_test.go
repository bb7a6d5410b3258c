//go:build race

package image_test

// raceEnabled: the race detector makes sync.Pool drop things at random.
const raceEnabled = true
