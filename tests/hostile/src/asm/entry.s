// Entry of the first CPU and of the others; EL1 stage 1; exception vectors; raw calls.
//
// The image starts with the hostvisor's header. Everything runs at EL1h on one stack a CPU, with DAIF
// masked, under an identity stage 1 of 1 GiB blocks in which all RAM may be written and executed: this
// program wants to be stopped by stage 2 only.

    .section .text.entry, "ax"
    .globl _start
_start:
    b     first_start
    .word 0
    .ascii "HOSTSHV1"
    .quad __image_end - _start
    .quad 0

first_start:
    msr   daifset, #15
    adrp  x9, __image_start
    adrp  x10, __rela_start
    add   x10, x10, :lo12:__rela_start
    adrp  x11, __rela_end
    add   x11, x11, :lo12:__rela_end
1:  cmp   x10, x11
    b.hs  2f
    ldp   x12, x13, [x10], #16
    ldr   x14, [x10], #8
    cmp   w13, #1027                // R_AARCH64_RELATIVE
    b.ne  .
    add   x14, x14, x9
    str   x14, [x9, x12]
    b     1b
2:  mov   x19, x0
    mov   x20, x1
    mov   x21, x2
    mov   x22, x3
    mov   x23, x4
    // Stage 1: entry i maps GiB i; the first is device memory, never executed.
    adrp  x10, {table}
    add   x10, x10, :lo12:{table}
    movz  x11, #0x0701              // block, AttrIdx 0, inner shareable, AF
    mov   x12, #0
    movz  x13, #0x0705              // AttrIdx 1
    movk  x13, #0x0060, lsl #48     // UXN, PXN
    str   x13, [x10], #8
3:  add   x12, x12, #1
    orr   x13, x11, x12, lsl #30
    str   x13, [x10], #8
    cmp   x12, #511
    b.lo  3b
    mov   x0, #0
    bl    set_up_cpu
    mov   x0, x19
    mov   x1, x20
    mov   x2, x21
    mov   x3, x22
    mov   x4, x23
    bl    {first}
    b     .

    // x0 = CPU index.
    .globl other_start
other_start:
    msr   daifset, #15
    mov   x19, x0
    bl    set_up_cpu
    mov   x0, x19
    bl    {other}
    b     .

    // x0 = CPU index. Clobbers x1-x4.
set_up_cpu:
    msr   tpidr_el1, x0
    msr   spsel, #1
    adrp  x1, {stacks}
    add   x1, x1, :lo12:{stacks}
    mov   x2, #{stack_size}
    add   x3, x0, #1
    madd  x1, x3, x2, x1
    mov   sp, x1
    adrp  x1, own_vectors
    add   x1, x1, :lo12:own_vectors
    msr   vbar_el1, x1
    mov   x29, xzr
    movz  x1, #0x04ff               // MAIR: 0 write-back, 1 Device-nGnRE
    msr   mair_el1, x1
    mrs   x1, id_aa64mmfr0_el1
    and   x1, x1, #0xf
    mov   x2, #5
    cmp   x1, x2
    csel  x1, x1, x2, lo
    lsl   x1, x1, #32               // IPS
    movz  x2, #0x3519               // T0SZ 25, write-back, inner shareable
    movk  x2, #0x0080, lsl #16      // EPD1
    orr   x1, x1, x2
    msr   tcr_el1, x1
    adrp  x1, {table}
    add   x1, x1, :lo12:{table}
    msr   ttbr0_el1, x1
    dsb   sy
    tlbi  vmalle1
    ic    iallu
    dsb   sy
    isb
    movz  x1, #0x181d               // M, C, SA, SA0, I, EOS
    movk  x1, #0x30d5, lsl #16      // RES1 bits, nTWI, nTWE, SPAN
    msr   sctlr_el1, x1
    isb
    ret

    .macro own_vector kind
    .balign 128
    sub   sp, sp, #272
    stp   x0, x1, [sp]
    mov   x0, #\kind
    b     own_save
    .endm

    .text
    .balign 2048
own_vectors:
    own_vector 0
    own_vector 1
    own_vector 2
    own_vector 3
    own_vector 4
    own_vector 5
    own_vector 6
    own_vector 7
    own_vector 8
    own_vector 9
    own_vector 10
    own_vector 11
    own_vector 12
    own_vector 13
    own_vector 14
    own_vector 15
own_save:
    stp   x2, x3, [sp, #16]
    stp   x4, x5, [sp, #32]
    stp   x6, x7, [sp, #48]
    stp   x8, x9, [sp, #64]
    stp   x10, x11, [sp, #80]
    stp   x12, x13, [sp, #96]
    stp   x14, x15, [sp, #112]
    stp   x16, x17, [sp, #128]
    stp   x18, x19, [sp, #144]
    stp   x29, x30, [sp, #160]
    mrs   x1, elr_el1
    mrs   x2, spsr_el1
    stp   x1, x2, [sp, #176]
    mov   x1, sp
    bl    {handler}
    ldp   x1, x2, [sp, #176]
    msr   elr_el1, x1
    msr   spsr_el1, x2
    ldp   x2, x3, [sp, #16]
    ldp   x4, x5, [sp, #32]
    ldp   x6, x7, [sp, #48]
    ldp   x8, x9, [sp, #64]
    ldp   x10, x11, [sp, #80]
    ldp   x12, x13, [sp, #96]
    ldp   x14, x15, [sp, #112]
    ldp   x16, x17, [sp, #128]
    ldp   x18, x19, [sp, #144]
    ldp   x29, x30, [sp, #160]
    ldp   x0, x1, [sp]
    add   sp, sp, #272
    eret

    // raw_call(registers: *mut [u64; 31], smc: u64): loads x0-x30, does HVC #0 (or SMC #0), stores x0-x30.
    .globl raw_call
raw_call:
    stp   x29, x30, [sp, #-112]!
    stp   x19, x20, [sp, #16]
    stp   x21, x22, [sp, #32]
    stp   x23, x24, [sp, #48]
    stp   x25, x26, [sp, #64]
    stp   x27, x28, [sp, #80]
    str   x0, [sp, #96]
    cmp   x1, #0
    ldp   x2, x3, [x0, #16]
    ldp   x4, x5, [x0, #32]
    ldp   x6, x7, [x0, #48]
    ldp   x8, x9, [x0, #64]
    ldp   x10, x11, [x0, #80]
    ldp   x12, x13, [x0, #96]
    ldp   x14, x15, [x0, #112]
    ldp   x16, x17, [x0, #128]
    ldp   x18, x19, [x0, #144]
    ldp   x20, x21, [x0, #160]
    ldp   x22, x23, [x0, #176]
    ldp   x24, x25, [x0, #192]
    ldp   x26, x27, [x0, #208]
    ldp   x28, x29, [x0, #224]
    ldr   x30, [x0, #240]
    ldp   x0, x1, [x0]
    b.ne  1f
    hvc   #0
    b     2f
1:  smc   #0
2:  str   x30, [sp, #104]
    ldr   x30, [sp, #96]
    stp   x0, x1, [x30]
    stp   x2, x3, [x30, #16]
    stp   x4, x5, [x30, #32]
    stp   x6, x7, [x30, #48]
    stp   x8, x9, [x30, #64]
    stp   x10, x11, [x30, #80]
    stp   x12, x13, [x30, #96]
    stp   x14, x15, [x30, #112]
    stp   x16, x17, [x30, #128]
    stp   x18, x19, [x30, #144]
    stp   x20, x21, [x30, #160]
    stp   x22, x23, [x30, #176]
    stp   x24, x25, [x30, #192]
    stp   x26, x27, [x30, #208]
    stp   x28, x29, [x30, #224]
    ldr   x0, [sp, #104]
    str   x0, [x30, #240]
    ldp   x19, x20, [sp, #16]
    ldp   x21, x22, [sp, #32]
    ldp   x23, x24, [sp, #48]
    ldp   x25, x26, [sp, #64]
    ldp   x27, x28, [sp, #80]
    ldp   x29, x30, [sp], #112
    ret
