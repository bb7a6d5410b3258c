//go:build race

package chunkstore_test

// raceEnabled: the race detector makes pools forget.
const raceEnabled = true
