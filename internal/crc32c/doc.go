// Package crc32c computes CRC-32C, the checksum of chunk records and index
// files, faster than hash/crc32 where the processor can multiply polynomials 512
// bits at a time.
//
// # How data passes through
//
// [Update] hands whole pieces of 256 bytes to fold, which keeps four registers of
// 64 bytes and carries each over the next 256 bytes with two multiplications
// modulo the polynomial. What is left of them, 64 bytes with the same remainder
// as all that went in, goes through the CRC32 instruction, and the rest of the
// input through hash/crc32.
//
// # What it is not
//
// It computes no other polynomial. Where the processor or the architecture lacks
// the instructions, it is hash/crc32, and short inputs always are.
package crc32c
