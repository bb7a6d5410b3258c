package crc32c

import "golang.org/x/sys/cpu"

// folds reports whether the processor has what fold needs. That the operating
// system saves the wide registers is part of it.
func folds() bool {
	return cpu.X86.HasAVX512VPCLMULQDQ && cpu.X86.HasAVX512F && cpu.X86.HasSSE42
}

// fold carries a state, the complement of a checksum, over n bytes at p. n is a
// multiple of foldBytes and not 0.
//
//go:noescape
func fold(state uint32, p *byte, n int) uint32
