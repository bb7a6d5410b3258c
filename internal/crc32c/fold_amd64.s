#include "textflag.h"

// A register of 128 bits stands for a polynomial: the first bit of its first byte
// is the coefficient of the highest power. To move it d bits further from the end
// of the message, its first half is multiplied with x^(d+64) and its second with
// x^d, both modulo the polynomial of CRC-32C. The product of two 64 bit numbers
// with their bits in this order comes out multiplied with x, so that each constant
// is for one power less: x^(d+63) and x^(d-1).

// d = 2048, from one step to the next.
DATA step<>+0(SB)/8, $0xe9a5d8be00000000
DATA step<>+8(SB)/8, $0x1426a81500000000
GLOBL step<>(SB), RODATA|NOPTR, $16

// d = 512, from one register to the next.
DATA next<>+0(SB)/8, $0x1c19243b00000000
DATA next<>+8(SB)/8, $0x75bba45b00000000
GLOBL next<>(SB), RODATA|NOPTR, $16

// FOLD moves reg on, by the constants in k, and adds what is at its new place.
#define FOLD(k, reg, tmp, with) \
	VPCLMULQDQ $0x00, k, reg, tmp; \
	VPCLMULQDQ $0x11, k, reg, reg; \
	VPTERNLOGQ $0x96, with, tmp, reg

// func fold(state uint32, p *byte, n int) uint32
TEXT ·fold(SB), NOSPLIT, $64-28
	MOVL state+0(FP), AX
	MOVQ p+8(FP), SI
	MOVQ n+16(FP), CX

	VBROADCASTI32X4 step<>(SB), Z16
	VMOVDQU64 0(SI), Z0
	VMOVDQU64 64(SI), Z1
	VMOVDQU64 128(SI), Z2
	VMOVDQU64 192(SI), Z3
	VMOVD AX, X4
	VPXORQ Z4, Z0, Z0

	ADDQ $256, SI
	SUBQ $256, CX
	JZ   join

loop:
	FOLD(Z16, Z0, Z4, 0(SI))
	FOLD(Z16, Z1, Z5, 64(SI))
	FOLD(Z16, Z2, Z6, 128(SI))
	FOLD(Z16, Z3, Z7, 192(SI))
	ADDQ $256, SI
	SUBQ $256, CX
	JNZ  loop

join:
	VBROADCASTI32X4 next<>(SB), Z16
	FOLD(Z16, Z0, Z4, Z1)
	FOLD(Z16, Z0, Z4, Z2)
	FOLD(Z16, Z0, Z4, Z3)

	// What is left has the remainder of the whole.
	VMOVDQU64 Z0, left-64(SP)
	XORL AX, AX
	CRC32Q left-64(SP), AX
	CRC32Q left-56(SP), AX
	CRC32Q left-48(SP), AX
	CRC32Q left-40(SP), AX
	CRC32Q left-32(SP), AX
	CRC32Q left-24(SP), AX
	CRC32Q left-16(SP), AX
	CRC32Q left-8(SP), AX
	VZEROUPPER
	MOVL AX, ret+24(FP)
	RET
