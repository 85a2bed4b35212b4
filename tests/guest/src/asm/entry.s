// Entry of the boot CPU and of those it powers on: relocation, stack, identity MMU.
// Live throughout: x19 = the first argument (device tree, or PSCI context id), x20 = load address.

.section .text.entry, "ax"
.global _start
_start:
    msr     daifset, #0xf
    mov     x19, x0
    adr     x20, _start

    // The image is linked at 0: every relative relocation is "add the load address".
    adrp    x1, __rela_start
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
1:  cmp     x1, x2
    b.hs    2f
    ldp     x3, x4, [x1], #16               // offset, info
    ldr     x5, [x1], #8                    // addend
    cmp     w4, #1027                       // R_AARCH64_RELATIVE
    b.ne    1b
    add     x5, x5, x20
    str     x5, [x3, x20]
    b       1b

2:  adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
3:  cmp     x1, x2
    b.hs    4f
    stp     xzr, xzr, [x1], #16
    b       3b

4:  adrp    x0, TABLE
    add     x0, x0, :lo12:TABLE
    mov     x1, #(1 << 30)                  // block size
    ldr     x2, =0x0060000000000401         // UXN PXN AF, device-nGnRnE, block
    str     x2, [x0], #8                    // VA 0: GIC, UART, RTC
    ldr     x2, =0x0040000000000705         // UXN AF inner-shareable, normal write-back, block
    orr     x2, x2, x1
    str     x2, [x0], #8                    // VA 1 GB: RAM, executable
    ldr     x2, =0x0060000000000705
    mov     x3, #2
5:  madd    x4, x3, x1, x2
    str     x4, [x0], #8                    // VA 2 GB to 64 GB: not executable
    add     x3, x3, #1
    cmp     x3, #64
    b.lo    5b
    ldr     x2, =0x0040000000000709         // VA 64 GB: PA 0 again, normal non-cacheable, executable
    str     x2, [x0]

    mov     x0, #0
    bl      enable_cpu
    mov     x0, x19
    mov     x1, x20
    bl      guest_main
    b       .

// PSCI CPU_ON target. x0 = context id, whose low byte is the CPU's index.
.global secondary_entry
secondary_entry:
    msr     daifset, #0xf
    mov     x19, x0
    and     x0, x0, #0xff
    bl      enable_cpu
    mov     x0, x19
    bl      secondary_main
    b       .

// x0 = CPU index. Sets the stack, the vectors and the MMU. Clobbers x0-x5.
enable_cpu:
    msr     tpidr_el1, x0
    adrp    x1, STACKS
    add     x1, x1, :lo12:STACKS
    add     x0, x0, #1
    add     x1, x1, x0, lsl #15             // STACK_BYTES
    mov     sp, x1
    adrp    x1, vectors
    add     x1, x1, :lo12:vectors
    msr     vbar_el1, x1
    mov     x1, #(3 << 20)                  // CPACR_EL1.FPEN
    msr     cpacr_el1, x1
    adrp    x1, TABLE
    add     x1, x1, :lo12:TABLE
    msr     ttbr0_el1, x1
    ldr     x1, =0x44ff00                   // 0 device-nGnRnE, 1 write-back, 2 non-cacheable
    msr     mair_el1, x1
    mrs     x1, id_aa64mmfr0_el1
    and     x1, x1, #0xf                    // PARange
    mov     x2, #5
    cmp     x1, x2
    csel    x1, x1, x2, lo
    ldr     x2, =0x803519                   // T0SZ 25, write-back inner-shareable walks, EPD1
    orr     x1, x2, x1, lsl #32             // IPS
    msr     tcr_el1, x1
    dsb     sy
    ic      iallu
    tlbi    vmalle1
    dsb     sy
    isb
    ldr     x1, =0x30d01805                 // RES1, M, C, I
    msr     sctlr_el1, x1
    isb
    ret
