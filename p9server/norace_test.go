//go:build !race

package p9server_test

const raceEnabled = false
