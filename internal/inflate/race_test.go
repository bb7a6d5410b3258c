//go:build race

package inflate_test

// raceEnabled: pools forget at random under the race detector.
const raceEnabled = true
