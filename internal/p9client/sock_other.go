//go:build !linux

package p9client

func tuneSocket(int, int) {}
