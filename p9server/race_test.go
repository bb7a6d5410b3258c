//go:build race

package p9server_test

// raceEnabled: pools drop buffers at random under the race detector.
const raceEnabled = true
