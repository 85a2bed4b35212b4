// The guest: does what its hostvisor tells it, one command after the other, over MMIO.
//
// Position-independent; runs at the start of its VM's RAM, MMU off. x28 is the control page, which maps
// nothing: each access is an exit. Command number and arguments x10-x13 are read there, the result x15
// is written there. x20: the context id it was started with. x21, x22: ESR of the last exception it
// took, and how many. Keep the order of `commands` as in `guest.rs`.

    .section .rodata.guest, "a"
    .balign 4096
    .globl guest_start, guest_end
guest_start:
    mov   x20, x0
    mov   x21, xzr
    mov   x22, xzr
    adr   x1, guest_vectors
    msr   vbar_el1, x1
    isb
    movz  x28, #0x0900, lsl #16
next:
    ldr   x9, [x28]
    ldr   x10, [x28, #8]
    ldr   x11, [x28, #16]
    ldr   x12, [x28, #24]
    ldr   x13, [x28, #32]
    mov   x15, xzr
    adr   x14, commands
    ldrsw x9, [x14, x9, lsl #2]
    add   x14, x14, x9
    br    x14
answer:
    str   x15, [x28, #64]
    b     next

    .balign 4
commands:
    .word do_peek - commands
    .word do_poke - commands
    .word do_fill - commands
    .word do_hvc - commands
    .word do_fp_set - commands
    .word do_fp_count - commands
    .word do_beat - commands
    .word do_watch - commands
    .word do_registers - commands
    .word do_load - commands
    .word do_store_byte - commands
    .word do_acknowledge - commands
    .word do_call - commands
    .word do_context - commands
    .word do_level - commands
    .word do_faults - commands
    .word do_wfi - commands
    .word do_count - commands
    .word do_blink - commands
    .word do_virtual_timer - commands

    // (address) -> word
do_peek:
    ldr   x15, [x10]
    b     answer
    // (address, value)
do_poke:
    str   x11, [x10]
    dsb   sy
    b     answer
    // (address, words, value)
do_fill:
    str   x12, [x10], #8
    subs  x11, x11, #1
    b.ne  do_fill
    dsb   sy
    b     answer
    // (x0, x1, x2, x3) -> x0
do_hvc:
    mov   x0, x10
    mov   x1, x11
    mov   x2, x12
    mov   x3, x13
    hvc   #0
    mov   x15, x0
    b     answer
    // (value): into both halves of v0-v31
do_fp_set:
    mov   x14, #3 << 20
    msr   cpacr_el1, x14
    isb
    .arch_extension fp
    .arch_extension simd
    .irp  n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    dup   v\n\().2d, x10
    .endr
    b     answer
    // (value) -> halves of v0-v31 that hold it
do_fp_count:
    mov   x14, #3 << 20
    msr   cpacr_el1, x14
    isb
    .irp  n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    mov   x14, v\n\().d[0]
    cmp   x14, x10
    cinc  x15, x15, eq
    mov   x14, v\n\().d[1]
    cmp   x14, x10
    cinc  x15, x15, eq
    .endr
    .arch_extension nosimd
    .arch_extension nofp
    b     answer
    // (address): counts there for ever
do_beat:
    ldr   x15, [x10]
1:  add   x15, x15, #1
    str   x15, [x10]
    b     1b
    // (address, value) -> the first other value found there
do_watch:
    ldr   x15, [x10]
    cmp   x15, x11
    b.eq  do_watch
    b     answer
    // (seed) -> what an MMIO load put into x5, or 0xbad0 + n if register n or the flags (31) changed
do_registers:
    adr   x14, kept
    stp   x20, x21, [x14]
    str   x22, [x14, #16]
    .irp  n, 0,1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,29,30
    add   x\n, x10, #\n
    .endr
    movz  x5, #0xa000, lsl #16
    msr   nzcv, x5
    ldr   x5, [x28, #48]
    mrs   x28, nzcv
    lsr   x28, x28, #28
    cmp   x28, #0xa
    mov   x28, #31
    b.ne  1f
    .irp  n, 0,1,2,3,4,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,29,30
    sub   x28, x\n, x10
    cmp   x28, #\n
    mov   x28, #\n
    b.ne  1f
    .endr
    mov   x15, x5
    b     2f
1:  movz  x15, #0xbad0
    add   x15, x15, x28
2:  movz  x28, #0x0900, lsl #16
    adr   x14, kept
    ldp   x20, x21, [x14]
    ldr   x22, [x14, #16]
    b     answer
    // (which) -> what a load of that kind finds in MMIO
do_load:
    mov   x15, #-1
    add   x13, x28, #48
    cbz   x10, 1f
    subs  x10, x10, #1
    b.eq  2f
    subs  x10, x10, #1
    b.eq  3f
    subs  x10, x10, #1
    b.eq  4f
    ldr   xzr, [x13]
    mov   x15, xzr
    b     answer
1:  ldrb  w15, [x13]
    b     answer
2:  ldrsb x15, [x13]
    b     answer
3:  ldrh  w15, [x13]
    b     answer
4:  ldr   w15, [x13]
    b     answer
    // (value): stores its lowest byte to MMIO
do_store_byte:
    strb  w10, [x28, #72]
    b     answer
    // () -> the INTID of a pending virtual interrupt, ended at once; 1023 for none
do_acknowledge:
    mrs   x14, id_aa64pfr0_el1
    tst   x14, #0xf << 24           // GIC: 0 for a GICv2
    b.eq  1f
    mov   x14, #0xff
    msr   s3_0_c4_c6_0, x14         // ICC_PMR_EL1
    mov   x14, #1
    msr   s3_0_c12_c12_7, x14       // ICC_IGRPEN1_EL1
    isb
    mrs   x15, s3_0_c12_c12_0       // ICC_IAR1_EL1
    dsb   sy
    cmp   x15, #1020
    b.hs  answer
    msr   s3_0_c12_c12_1, x15       // ICC_EOIR1_EL1
    isb
    b     answer
1:  mov   x14, #{gicc}
    mov   w13, #7                   // both groups, read from one register
    str   w13, [x14]                // GICC_CTLR
    mov   w13, #0xff
    str   w13, [x14, #4]            // GICC_PMR
    dsb   sy
    ldr   w13, [x14, #0xc]          // GICC_IAR
    dsb   sy
    and   x15, x13, #0x3ff
    cmp   x15, #1020
    b.hs  2f
    str   w13, [x14, #0x10]         // GICC_EOIR
    dsb   sy
    b     answer
2:  mov   x15, #1023
    b     answer
    // (code, x1): calls code in the VM's RAM with x10 = x1
do_call:
    mov   x14, x10
    mov   x10, x11
    dsb   sy
    ic    iallu
    dsb   sy
    isb
    blr   x14
    b     answer
do_context:
    mov   x15, x20
    b     answer
do_level:
    mrs   x15, currentel
    b     answer
    // () -> number of exceptions taken << 32 | last syndrome; starts counting again
do_faults:
    orr   x15, x21, x22, lsl #32
    mov   x22, xzr
    mov   x21, xzr
    b     answer
do_wfi:
    wfi
    b     answer
    // (n) -> n, counted one by one
do_count:
    add   x15, x15, #1
    cmp   x15, x10
    b.lo  do_count
    b     answer
    // (address, rounds, value): has value in the page while it is private, never while it is shared
    // -> calls that failed
do_blink:
    mov   x17, xzr
1:  str   x12, [x10]
    dsb   sy
    mov   x16, #2000                // long enough for whoever may read it
2:  subs  x16, x16, #1
    b.ne  2b
    str   xzr, [x10]
    dsb   sy
    movz  x0, #3
    movk  x0, #0xc600, lsl #16
    mov   x1, x10
    mov   x2, xzr
    mov   x3, xzr
    hvc   #0
    cmp   x0, #0
    cinc  x17, x17, ne
    movz  x0, #4
    movk  x0, #0xc600, lsl #16
    mov   x1, x10
    mov   x2, xzr
    mov   x3, xzr
    hvc   #0
    cmp   x0, #0
    cinc  x17, x17, ne
    subs  x11, x11, #1
    b.ne  1b
    mov   x15, x17
    b     answer
    // (value): compare value of its virtual timer, which is off
do_virtual_timer:
    msr   cntv_ctl_el0, xzr
    msr   cntv_cval_el0, x10
    isb
    b     answer
    .balign 8
kept:
    .quad 0, 0, 0, 0

    .balign 2048
guest_vectors:
    .rept 16
    .balign 128
    mrs   x21, esr_el1
    add   x22, x22, #1
    mrs   x16, elr_el1
    add   x16, x16, #4
    lsr   x18, x21, #26
    cmp   x18, #0x21                // an instruction abort: back to who called
    csel  x16, x30, x16, eq
    msr   elr_el1, x16
    eret
    .endr
    .balign 4096
guest_end:
    .text
