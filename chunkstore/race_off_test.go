//go:build !race

package chunkstore_test

const raceEnabled = false
