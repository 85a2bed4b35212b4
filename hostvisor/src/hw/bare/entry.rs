//! The entry stub: from the corevisor's `ERET` to Rust, for the first CPU and for the others.
//!
//! The image starts with a 32-byte header that boot checks: a branch, the magic, the size in memory.
//! Both enter at EL1h with the MMU off and DAIF masked. The rest of the program runs on SP_EL0 (EL1t),
//! so that SP_EL1 is a good stack for exceptions even when the ordinary one has overflown into its
//! guard page.

use super::mmu;
use crate::hw::BootInfo;
use abi::{MAX_CPUS, psci};
use core::arch::global_asm;
use core::cell::UnsafeCell;

/// Bytes of a CPU's exception stack.
const EXCEPTION_STACK: usize = 4 << 10;
/// Bytes that stay unmapped below each stack.
const GUARD: usize = 4 << 10;
/// One CPU's part of the stack area: guard page, exception stack, guard page, and the rest its stack.
const AREA: usize = 64 << 10;

#[repr(C, align(4096))]
struct Stacks(UnsafeCell<[u8; AREA * MAX_CPUS]>);

// SAFETY: each CPU touches its own area only, through its stack pointers.
unsafe impl Sync for Stacks {}

#[unsafe(link_section = ".stacks")]
static STACKS: Stacks = Stacks(UnsafeCell::new([0; AREA * MAX_CPUS]));

global_asm!(
    r#"
    .section .text.entry, "ax"
    .globl _start
_start:
    b     hv_entry
    .word 0
    .ascii "HOSTSHV1"
    .quad __image_end - _start
    .quad 0
hv_entry:
    msr   daifset, #15
    adrp  x9, __image_start
    // R_AARCH64_RELATIVE: *(base + offset) = base + addend. The addend is in the table, not in place.
    adrp  x10, __rela_start
    add   x10, x10, :lo12:__rela_start
    adrp  x11, __rela_end
    add   x11, x11, :lo12:__rela_end
1:  cmp   x10, x11
    b.hs  2f
    ldp   x12, x13, [x10], #16
    ldr   x14, [x10], #8
    cmp   w13, #1027
    b.ne  .
    add   x14, x14, x9
    str   x14, [x9, x12]
    b     1b
2:  adrp  x10, __bss_start
    add   x10, x10, :lo12:__bss_start
    adrp  x11, __image_end
3:  cmp   x10, x11
    b.hs  4f
    stp   xzr, xzr, [x10], #16
    b     3b
4:
    mov   x19, x0
    mov   x20, x1
    mov   x21, x2
    mov   x22, x3
    mov   x23, x4
    mov   x5, xzr
    bl    hv_set_stacks
    mov   x0, x20
    mov   x1, x21
    mov   x2, x19
    bl    {tables}
    // What was written with the MMU off is in memory; no stale line may hide it later.
    dsb   sy
    mrs   x12, ctr_el0
    ubfx  x12, x12, #16, #4
    mov   x13, #4
    lsl   x13, x13, x12
    adrp  x10, __image_start
    adrp  x11, __image_end
5:  dc    ivac, x10
    add   x10, x10, x13
    cmp   x10, x11
    b.lo  5b
    dsb   sy
    bl    hv_mmu_on
    mov   x0, x19
    mov   x1, x20
    mov   x2, x21
    mov   x3, x22
    mov   x4, x23
    bl    {first}
    b     .

    // x0 = CPU index.
    .globl secondary_start
secondary_start:
    msr   daifset, #15
    mov   x19, x0
    mov   x5, x0
    bl    hv_set_stacks
    bl    hv_mmu_on
    mov   x0, x19
    bl    {other}
    b     .

    // x5 = CPU index: sets both stack pointers, TPIDR_EL1 and the vectors. Clobbers x6-x8.
hv_set_stacks:
    msr   tpidr_el1, x5
    adrp  x6, {area}
    add   x6, x6, :lo12:{area}
    mov   x7, #{size}
    madd  x6, x5, x7, x6
    mov   x8, #{exception_top}
    add   x8, x6, x8
    msr   spsel, #1
    mov   sp, x8
    msr   spsel, #0
    add   x6, x6, x7
    mov   sp, x6
    adrp  x6, hv_vectors
    add   x6, x6, :lo12:hv_vectors
    msr   vbar_el1, x6
    mov   x29, xzr
    msr   cpacr_el1, xzr
    isb
    ret

    // Turns the MMU on with what {settings} holds: MAIR, TCR, TTBR0, SCTLR. Clobbers x1-x3.
hv_mmu_on:
    adrp  x1, {settings}
    add   x1, x1, :lo12:{settings}
    ldp   x2, x3, [x1]
    msr   mair_el1, x2
    msr   tcr_el1, x3
    ldp   x2, x3, [x1, #16]
    msr   ttbr0_el1, x2
    dsb   sy
    tlbi  vmalle1
    ic    iallu
    dsb   sy
    isb
    msr   sctlr_el1, x3
    isb
    ret
    "#,
    tables = sym mmu::build,
    first = sym first,
    other = sym other,
    area = sym STACKS,
    size = const AREA,
    exception_top = const GUARD + EXCEPTION_STACK,
    settings = sym mmu::SETTINGS,
);

unsafe extern "C" {
    fn secondary_start();
}

/// The first CPU, MMU on.
extern "C" fn first(
    fdt: u64,
    image: u64,
    reserved: u64,
    core_regions: u64,
    core_region_count: u64,
) -> ! {
    super::heap::init(image, reserved);
    crate::start::first(BootInfo {
        fdt,
        image,
        reserved,
        core_regions,
        core_region_count,
    })
}

/// Any other CPU, MMU on.
extern "C" fn other(index: u64) -> ! {
    crate::start::other(index as usize)
}

/// Starts CPU `index`, whose affinity is `mpidr`, by PSCI CPU_ON. Answers PSCI's code.
pub fn start_cpu(index: usize, mpidr: u64) -> i64 {
    let entry = secondary_start as unsafe extern "C" fn() as usize as u64;
    super::smc(psci::CPU_ON_64, [mpidr, entry, index as u64])
}

/// The guard pages of all stacks, as addresses: `mmu` leaves them out.
pub(super) fn is_guard(page: u64) -> bool {
    let base = STACKS.0.get() as u64;
    let Some(offset) = page.checked_sub(base) else {
        return false;
    };
    let within = offset as usize % AREA;
    offset < (AREA * MAX_CPUS) as u64 && (within < GUARD || within == GUARD + EXCEPTION_STACK)
}

/// The address range of CPU `index`'s stacks.
pub(super) fn stack_range(index: usize) -> (u64, u64) {
    let base = STACKS.0.get() as u64 + (index * AREA) as u64;
    (base, base + AREA as u64)
}
