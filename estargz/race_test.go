//go:build race

package estargz_test

// raceEnabled: pools forget at random under the race detector.
const raceEnabled = true
