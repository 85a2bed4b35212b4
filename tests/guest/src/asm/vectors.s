// Exception vectors. Every entry saves x0-x30, ELR and SPSR in a `Frame` on the stack and calls
// exception_dispatch(kind, frame); the frame's contents are what eret goes back to.

.macro vector kind
.balign 128
    sub     sp, sp, #272
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       exception_common
.endm

.section .text
.balign 2048
vectors:
    vector  4
    vector  4
    vector  4
    vector  4
    vector  0                               // synchronous
    vector  1                               // IRQ
    vector  2                               // FIQ
    vector  3                               // SError
    vector  4
    vector  4
    vector  4
    vector  4
    vector  4
    vector  4
    vector  4
    vector  4

exception_common:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x2, elr_el1
    mrs     x3, spsr_el1
    stp     x30, x2, [sp, #240]
    str     x3, [sp, #256]
    mov     x1, sp
    bl      exception_dispatch
    ldp     x30, x2, [sp, #240]
    ldr     x3, [sp, #256]
    msr     elr_el1, x2
    msr     spsr_el1, x3
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldp     x0, x1, [sp], #272
    eret

// run_protected(f: extern "C" fn(), context: *mut [u64; 12]) -> u64
// Calls f. 0: it came back. 1: `escape` was entered with x0 = context.
.global run_protected
run_protected:
    stp     x29, x30, [sp, #-16]!
    stp     x19, x20, [x1]
    stp     x21, x22, [x1, #16]
    stp     x23, x24, [x1, #32]
    stp     x25, x26, [x1, #48]
    stp     x27, x28, [x1, #64]
    mov     x2, sp
    str     x2, [x1, #80]
    blr     x0
    mov     x0, #0
    ldp     x29, x30, [sp], #16
    ret

.global escape
escape:
    ldp     x19, x20, [x0]
    ldp     x21, x22, [x0, #16]
    ldp     x23, x24, [x0, #32]
    ldp     x25, x26, [x0, #48]
    ldp     x27, x28, [x0, #64]
    ldr     x2, [x0, #80]
    mov     sp, x2
    mov     x0, #1
    ldp     x29, x30, [sp], #16
    ret
