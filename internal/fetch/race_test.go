//go:build race

package fetch_test

// raceEnabled: pools forget at random under the race detector.
const raceEnabled = true
