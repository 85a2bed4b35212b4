// _start: Linux enters with SP at argc, argv follows.
.section .text._start, "ax"
.global _start
_start:
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, sp
    b       {program}

// hold(x0 = secret, x1 = times): every general register but SP and three counters, every FP/SIMD register and
// TPIDR_EL0 hold the secret while a loop gives interrupts a chance, and across a system call.
.text
.arch_extension fp
.arch_extension simd
.global hold
hold:
    stp     x19, x20, [sp, #-96]!
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    mov     x29, x1                         // rounds left
1:  msr     tpidr_el0, x0
    .irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,30
    mov     x\n, x0
    .endr
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    dup     v\n\().2d, x0
    .endr
    mov     x28, #1000
2:  subs    x28, x28, #1
    b.ne    2b
    mov     x8, #124                        // sched_yield
    svc     #0
    mov     x0, x1
    subs    x29, x29, #1
    b.ne    1b
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    ldp     x19, x20, [sp], #96
    ret
