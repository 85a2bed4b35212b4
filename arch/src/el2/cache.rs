//! Cache maintenance by virtual address, to the point of coherency (Arm ARM D7.5).
//!
//! EL2 maps memory at its physical address, so physical and virtual addresses are the same here, and
//! with the MMU off they are the same by definition.

use core::arch::asm;

/// Bytes of the smallest data cache line of any cache (CTR_EL0.DminLine).
fn line_size() -> u64 {
    let ctr: u64;
    // SAFETY: reading CTR_EL0 has no side effect.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    4 << ((ctr >> 16) & 0xf)
}

macro_rules! by_line {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        pub fn $name(start: u64, size: u64) {
            let line = line_size();
            let mut address = start & !(line - 1);
            let end = start.saturating_add(size);
            while address < end {
                // SAFETY: cleaning never changes what memory holds as seen through the caches. An
                // address that is not mapped faults, which the vectors report.
                unsafe { asm!($instruction, in(reg) address, options(nostack, preserves_flags)) };
                address = address.saturating_add(line);
            }
            full_barrier();
        }
    };
}

by_line! {
    /// Writes the lines of `start..start + size` back to memory: for readers with caches off.
    clean, "dc cvac, {}"
}
by_line! {
    /// Writes the lines back and drops them: for readers and writers with caches off.
    clean_invalidate, "dc civac, {}"
}

/// Drops the lines of `start..start + size` without writing them back.
///
/// # Safety
/// What the caches hold of these lines is lost: every line must be clean, or wanted from memory, and
/// nothing else may live in the first and last line.
pub unsafe fn invalidate(start: u64, size: u64) {
    let line = line_size();
    let mut address = start & !(line - 1);
    let end = start.saturating_add(size);
    while address < end {
        // SAFETY: the caller gives these lines up.
        unsafe { asm!("dc ivac, {}", in(reg) address, options(nostack, preserves_flags)) };
        address = address.saturating_add(line);
    }
    full_barrier();
}

/// Waits until all earlier accesses and maintenance are complete for every observer (DSB SY), and
/// refetches (ISB).
pub fn full_barrier() {
    // SAFETY: barriers only order.
    unsafe { asm!("dsb sy", "isb", options(nostack, preserves_flags)) };
}
