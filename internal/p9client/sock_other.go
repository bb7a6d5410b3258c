//go:build !linux

package p9client

func setSocketBuffers(int, int) {}
