// Loads and stores of registers that the compiler never touches.

.arch_extension fp
.arch_extension simd

.macro all_q op
    \op     q0, q1, [x0]
    \op     q2, q3, [x0, #32]
    \op     q4, q5, [x0, #64]
    \op     q6, q7, [x0, #96]
    \op     q8, q9, [x0, #128]
    \op     q10, q11, [x0, #160]
    \op     q12, q13, [x0, #192]
    \op     q14, q15, [x0, #224]
    \op     q16, q17, [x0, #256]
    \op     q18, q19, [x0, #288]
    \op     q20, q21, [x0, #320]
    \op     q22, q23, [x0, #352]
    \op     q24, q25, [x0, #384]
    \op     q26, q27, [x0, #416]
    \op     q28, q29, [x0, #448]
    \op     q30, q31, [x0, #480]
.endm

.section .text
// fp_load(*const [u128; 32])
.global fp_load
fp_load:
    all_q   ldp
    ret

// fp_store(*mut [u128; 32])
.global fp_store
fp_store:
    all_q   stp
    ret

.macro fill reg, shift
    eor     \reg, x0, #(0xff << \shift)
.endm
.macro differs reg, shift
    eor     x3, x0, #(0xff << \shift)
    cmp     \reg, x3
    b.ne    1f
.endm

// The body of gpr_hvc and gpr_mmio: x4-x29 and x30 get values made from x0, the operation runs,
// and x1 becomes 0 if all of them kept their value.
.macro each_gpr op
    \op     x5, 1
    \op     x6, 2
    \op     x7, 3
    \op     x8, 4
    \op     x9, 5
    \op     x10, 6
    \op     x11, 7
    \op     x12, 8
    \op     x13, 9
    \op     x14, 10
    \op     x15, 11
    \op     x16, 12
    \op     x17, 13
    \op     x18, 14
    \op     x19, 15
    \op     x20, 16
    \op     x21, 17
    \op     x22, 18
    \op     x23, 19
    \op     x24, 20
    \op     x25, 21
    \op     x26, 22
    \op     x27, 23
    \op     x28, 24
    \op     x29, 25
    \op     x30, 26
.endm

.macro save_callee
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
.endm
.macro restore_callee
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
.endm

// gpr_hvc(seed, function) -> 0 if x5-x30 and x4 = ~seed survived HVC #0 with x0 = function.
.global gpr_hvc
gpr_hvc:
    save_callee
    sub     sp, sp, #16
    str     x0, [sp]
    mvn     x4, x0
    each_gpr fill
    mov     x0, x1
    hvc     #0
    b       gpr_check

// gpr_mmio(seed, address) -> 0 if x4-x30 survived a 32-bit load from `address`.
.global gpr_mmio
gpr_mmio:
    save_callee
    sub     sp, sp, #16
    str     x0, [sp]
    mvn     x4, x0
    each_gpr fill
    ldr     w2, [x1]
    b       gpr_check

// gpr_wfi(seed) -> 0 if x4-x30 survived WFI.
.global gpr_wfi
gpr_wfi:
    save_callee
    sub     sp, sp, #16
    str     x0, [sp]
    mvn     x4, x0
    each_gpr fill
    wfi

gpr_check:
    ldr     x0, [sp]
    mvn     x3, x0
    cmp     x4, x3
    b.ne    1f
    each_gpr differs
    mov     x0, #0
    b       2f
1:  mov     x0, #1
2:  add     sp, sp, #16
    restore_callee
    ret
