#include "textflag.h"

// func pair(b []byte, distance int, first, second, firstFold, secondFold byte) int
//
// All instructions are of SSE2, which every amd64 has. CX is the number of
// places; what is read from SI lies before SI+CX, and from DI before DI+CX,
// which is the end of b.
TEXT ·pair(SB), NOSPLIT, $0-48
	MOVQ    b_base+0(FP), SI
	MOVQ    b_len+8(FP), CX
	MOVQ    distance+24(FP), DX
	MOVBLZX first+32(FP), AX
	MOVBLZX second+33(FP), BX
	MOVBLZX firstFold+34(FP), R11
	MOVBLZX secondFold+35(FP), R12
	XORQ    R8, R8
	SUBQ    DX, CX
	JLE     none
	LEAQ    (SI)(DX*1), DI
	CMPQ    CX, $16
	JLT     small

	// One byte in all sixteen of a register.
	MOVD      AX, X0
	PUNPCKLBW X0, X0
	PUNPCKLBW X0, X0
	PSHUFL    $0, X0, X0
	MOVD      BX, X1
	PUNPCKLBW X1, X1
	PUNPCKLBW X1, X1
	PSHUFL    $0, X1, X1
	MOVD      R11, X12
	PUNPCKLBW X12, X12
	PUNPCKLBW X12, X12
	PSHUFL    $0, X12, X12
	MOVD      R12, X13
	PUNPCKLBW X13, X13
	PUNPCKLBW X13, X13
	PSHUFL    $0, X13, X13

	MOVQ CX, R10
	SUBQ $64, R10
	JMP  check64

loop64:
	MOVOU    (SI)(R8*1), X2
	MOVOU    16(SI)(R8*1), X3
	MOVOU    32(SI)(R8*1), X4
	MOVOU    48(SI)(R8*1), X5
	MOVOU    (DI)(R8*1), X6
	MOVOU    16(DI)(R8*1), X7
	MOVOU    32(DI)(R8*1), X8
	MOVOU    48(DI)(R8*1), X9
	POR      X12, X2
	POR      X12, X3
	POR      X12, X4
	POR      X12, X5
	POR      X13, X6
	POR      X13, X7
	POR      X13, X8
	POR      X13, X9
	PCMPEQB  X0, X2
	PCMPEQB  X0, X3
	PCMPEQB  X0, X4
	PCMPEQB  X0, X5
	PCMPEQB  X1, X6
	PCMPEQB  X1, X7
	PCMPEQB  X1, X8
	PCMPEQB  X1, X9
	PAND     X6, X2
	PAND     X7, X3
	PAND     X8, X4
	PAND     X9, X5
	MOVO     X2, X10
	POR      X3, X10
	MOVO     X4, X11
	POR      X5, X11
	POR      X11, X10
	PMOVMSKB X10, R9
	TESTL    R9, R9
	JNZ      found64
	ADDQ     $64, R8

check64:
	CMPQ R8, R10
	JLE  loop64

	MOVQ CX, R10
	SUBQ $16, R10
	JMP  check16

loop16:
	MOVOU    (SI)(R8*1), X2
	MOVOU    (DI)(R8*1), X6
	POR      X12, X2
	POR      X13, X6
	PCMPEQB  X0, X2
	PCMPEQB  X1, X6
	PAND     X6, X2
	PMOVMSKB X2, R9
	TESTL    R9, R9
	JNZ      found
	ADDQ     $16, R8

check16:
	CMPQ R8, R10
	JLE  loop16
	CMPQ R8, CX
	JGE  none

	// The last sixteen places, of which some have been seen.
	MOVQ R10, R8
	JMP  loop16

found64:
	PMOVMSKB X2, R9
	TESTL    R9, R9
	JNZ      found
	ADDQ     $16, R8
	PMOVMSKB X3, R9
	TESTL    R9, R9
	JNZ      found
	ADDQ     $16, R8
	PMOVMSKB X4, R9
	TESTL    R9, R9
	JNZ      found
	ADDQ     $16, R8
	PMOVMSKB X5, R9

found:
	BSFL R9, R9
	ADDQ R9, R8
	MOVQ R8, ret+40(FP)
	RET

small:
	MOVBLZX (SI)(R8*1), R9
	ORL     R11, R9
	CMPL    R9, AX
	JNE     next
	MOVBLZX (DI)(R8*1), R9
	ORL     R12, R9
	CMPL    R9, BX
	JEQ     one

next:
	INCQ R8
	CMPQ R8, CX
	JLT  small

none:
	MOVQ $-1, ret+40(FP)
	RET

one:
	MOVQ R8, ret+40(FP)
	RET
