//! Where firmware enters: the arm64 Image header (Linux Documentation/arch/arm64/booting.rst) and
//! the way from there to Rust.
//!
//! The stub runs at any 4 KiB-aligned address and trusts only the program counter, x0 and x2. It
//! brings EL2 to a known state with MMU and caches off, relocates the image, clears bss and calls
//! [`crate::start::boot_main`] on the first stack. Entered at another exception level it goes on all
//! the same, so that Rust can say so.

use arch::el2::mmu::SCTLR_RES1;
use core::arch::global_asm;

/// HCR_EL2.RW: EL1 is AArch64. All else off: no VHE, no traps, no stage 2.
const HCR_RW: u64 = 1 << 31;
/// CPTR_EL2 (E2H = 0) with its RES1 bits only: no traps.
const CPTR_RES1: u64 = 0x33FF;
/// Image header flags: little-endian, 4 KiB pages, anywhere in memory.
const IMAGE_FLAGS: u64 = 0b1 << 1 | 1 << 3;
/// R_AARCH64_RELATIVE (AAELF64).
const R_RELATIVE: u64 = 1027;

global_asm!(
    r#"
    .section .head, "ax"
    .global _start
_head:
    b       _start
    .word   0
    .quad   0                       // text_offset
    .quad   _image_end - _head      // image_size, bss and stacks included
    .quad   {flags}
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .word   0

    .section .text.entry, "ax"
    // x20 = x0 at entry, x21 = x2 at entry, x22 = exception level
_start:
    msr     daifset, #0xf
    mov     x20, x0
    mov     x21, x2

    // One CPU goes on: the last of those that find the owner word zero. The wait is far longer than
    // the window between a load and a store. MPIDR_EL1 is never zero: bit 31 is RES1.
    adrp    x1, {owner}
    add     x1, x1, :lo12:{owner}
    mrs     x2, mpidr_el1
    ldr     x3, [x1]
    cbnz    x3, boot_park
    str     x2, [x1]
    dsb     sy
    mov     x4, #0x4000
1:  subs    x4, x4, #1
    b.ne    1b
    ldr     x3, [x1]
    cmp     x3, x2
    b.ne    boot_park

    mrs     x22, CurrentEL
    lsr     x22, x22, #2
    cmp     x22, #2
    b.ne    2f

    // What caches hold of the image goes to memory before they are off.
    adrp    x0, _image_start
    adrp    x1, _image_end
    mrs     x2, ctr_el0
    ubfx    x2, x2, #16, #4
    mov     x3, #4
    lsl     x2, x3, x2
3:  dc      civac, x0
    add     x0, x0, x2
    cmp     x0, x1
    b.lo    3b
    dsb     sy
    bl      el2_known_state

    // Relocate: the image is linked at 0.
2:  adrp    x0, _image_start
    adrp    x1, _rela_start
    add     x1, x1, :lo12:_rela_start
    adrp    x2, _rela_end
    add     x2, x2, :lo12:_rela_end
4:  cmp     x1, x2
    b.hs    5f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     x4, #{relative}
    b.ne    boot_park
    add     x5, x5, x0
    str     x5, [x0, x3]
    b       4b

5:  adrp    x0, _bss_start
    add     x0, x0, :lo12:_bss_start
    adrp    x1, _bss_end
    add     x1, x1, :lo12:_bss_end
6:  cmp     x0, x1
    b.hs    7f
    stp     xzr, xzr, [x0], #16
    b       6b

7:  msr     spsel, #1
    adrp    x0, _stacks_start
    add     x0, x0, :lo12:_stacks_start
    mov     x1, #{stride}
    add     sp, x0, x1
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x20
    mov     x1, x21
    mov     x2, x22
    b       {main}

    .global boot_park
boot_park:
    msr     daifset, #0xf
8:  wfe
    b       8b

    // EL2 registers that decide how this program runs, MMU and caches off. Clobbers x0. Both the
    // boot CPU and the others come here, right after entry and without a stack.
    .global el2_known_state
el2_known_state:
    adrp    x0, boot_vectors
    add     x0, x0, :lo12:boot_vectors
    msr     vbar_el2, x0
    mov     x0, #({sctlr} & 0xffff)
    movk    x0, #({sctlr} >> 16), lsl #16
    dsb     sy
    msr     sctlr_el2, x0
    isb
    mov     x0, #{hcr}
    msr     hcr_el2, x0
    isb
    mov     x0, #{cptr}
    msr     cptr_el2, x0
    msr     hstr_el2, xzr
    msr     vttbr_el2, xzr
    msr     cntvoff_el2, xzr
    tlbi    alle2
    ic      iallu
    dsb     sy
    isb
    ret
"#,
    owner = sym OWNER,
    main = sym crate::start::boot_main,
    flags = const IMAGE_FLAGS,
    relative = const R_RELATIVE,
    stride = const boot::layout::STACK_STRIDE,
    sctlr = const SCTLR_RES1,
    hcr = const HCR_RW,
    cptr = const CPTR_RES1,
);

/// MPIDR_EL1 of the CPU that boots. In `.data`: the stub uses it
/// before bss is cleared.
#[unsafe(link_section = ".data")]
static OWNER: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);
