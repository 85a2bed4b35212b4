//! RAM and TLBs of the real machine, as the corevisor's [`Memory`] and [`Tlb`].

use super::cpu::{mrs, msr};
use crate::hal::{FrameWords, Memory, Stage2Regs, Tlb};
use abi::{Ipa, PAGE_SIZE, Pfn};
use core::arch::asm;

/// Most RAM regions a machine has.
pub const MAX_RAM_REGIONS: usize = 8;

/// All RAM, mapped one to one at EL2.
#[derive(Debug)]
pub struct El2Memory {
    /// (first frame, frames) of each region.
    ram: [(Pfn, u64); MAX_RAM_REGIONS],
    cache_line: u64,
    /// Bytes that DC ZVA zeroes; 0 where it is prohibited.
    zero_block: u64,
}

impl El2Memory {
    /// Takes over the RAM regions (first frame, frames); unused ones have no frames.
    ///
    /// # Safety
    ///
    /// Every frame of `ram` is RAM that EL2's stage 1 maps one to one, writable, for ever; memory
    /// that Rust objects of EL2 live in is never named in a call (the frame table keeps it Core).
    #[must_use]
    pub unsafe fn new(ram: [(Pfn, u64); MAX_RAM_REGIONS]) -> Self {
        let (cache_line, zero_block) = granules();
        Self {
            ram,
            cache_line,
            zero_block,
        }
    }

    /// True if this CPU cleans and zeroes in the same steps as the one that made `self`.
    #[must_use]
    pub fn suits_this_cpu(&self) -> bool {
        granules() == (self.cache_line, self.zero_block)
    }

    fn address(&self, frame: Pfn) -> u64 {
        let known = self
            .ram
            .iter()
            .any(|&(base, frames)| frame.0.wrapping_sub(base.0) < frames);
        if !known {
            not_ram(frame)
        }
        frame.base().0
    }
}

/// Bytes of this CPU's smallest data cache line, and bytes that its DC ZVA zeroes: 0 where it is prohibited.
fn granules() -> (u64, u64) {
    // Both are log2 of words: CTR_EL0.DminLine, DCZID_EL0.BS; DCZID_EL0.DZP prohibits.
    let (ctr, dczid) = (mrs!("ctr_el0"), mrs!("dczid_el0"));
    let zero_block = if dczid & 1 << 4 == 0 {
        4 << (dczid & 0xf)
    } else {
        0
    };
    (4 << ((ctr >> 16) & 0xf), zero_block)
}

/// The core was about to touch what is not RAM: it has lost track of its memory.
#[cold]
#[inline(never)]
fn not_ram(frame: Pfn) -> ! {
    panic!("frame {:#x} is not RAM", frame.0)
}

impl Memory for El2Memory {
    fn words(&self, frame: Pfn) -> &FrameWords {
        let address = self.address(frame) as *const FrameWords;
        // SAFETY: `new`'s contract: the frame is mapped RAM, 4 KiB aligned; whoever else writes it,
        // atomics make that defined.
        unsafe { &*address }
    }

    fn zero(&self, frame: Pfn) {
        let (start, size) = (self.address(frame), self.zero_block);
        if size == self.cache_line {
            // RAM does not end where addresses do.
            let (mut line, end) = (start, start.wrapping_add(PAGE_SIZE));
            while line < end {
                // SAFETY: as below, and as in `clean`: both in one pass. Of one line, they keep their order (Arm ARM,
                // "Ordering and completion of data and instruction cache instructions").
                unsafe {
                    asm!("dc zva, {0}", "dc civac, {0}", in(reg) line, options(nostack, preserves_flags));
                }
                line = line.wrapping_add(size);
            }
            // SAFETY: a barrier has no other effect.
            unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
            return;
        }
        if size != 0 {
            let mut block = start;
            while block < start + PAGE_SIZE {
                // SAFETY: zeroes a block of the frame, which is RAM that nobody else uses now (the caller
                // took it out of every table) and smaller than a page (2 KiB at most).
                unsafe { asm!("dc zva, {}", in(reg) block, options(nostack, preserves_flags)) };
                block += size;
            }
        } else {
            for word in self.words(frame) {
                word.store(0, core::sync::atomic::Ordering::Relaxed);
            }
        }
        self.clean(frame);
    }

    fn forget_instructions(&self) {
        // CTR_EL0.DIC: stores reach the instruction caches.
        if mrs!("ctr_el0") & 1 << 29 == 0 {
            // SAFETY: instructions are fetched anew.
            unsafe { asm!("ic ialluis", "dsb ish", options(nostack, preserves_flags)) };
        }
    }

    fn clean(&self, frame: Pfn) {
        let start = self.address(frame);
        let mut line = start;
        while line < start + PAGE_SIZE {
            // SAFETY: cleans and invalidates a line of mapped RAM: its content stays what it is.
            unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
            line += self.cache_line;
        }
        // SAFETY: a barrier has no other effect.
        unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    }
}

/// TLB maintenance of this machine.
#[derive(Debug)]
pub struct El2Tlb;

/// Runs `f` with VTTBR_EL2 and VTCR_EL2 of another regime: TLBI by IPA and by VMID act on the current
/// VMID. EL2 does not use stage 2 itself, and it runs with interrupts masked.
fn with_regime(regs: Stage2Regs, f: impl FnOnce()) {
    let (vttbr, vtcr) = (mrs!("vttbr_el2"), mrs!("vtcr_el2"));
    if vttbr == regs.vttbr {
        return f();
    }
    // A table walk that began below EL2 may still go on: it must not see the other regime (Arm ARM D8.1.5,
    // R_LFHQG). SAFETY: a barrier has no other effect.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    msr!("vtcr_el2", regs.vtcr);
    msr!("vttbr_el2", regs.vttbr);
    // SAFETY: context synchronisation before the TLBI that depends on the VMID.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
    f();
    msr!("vtcr_el2", vtcr);
    msr!("vttbr_el2", vttbr);
    // SAFETY: as above.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

impl Tlb for El2Tlb {
    fn publish(&self) {
        // SAFETY: barriers have no other effect.
        unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
    }

    fn invalidate_ipa(&self, regs: Stage2Regs, ipa: Ipa) {
        with_regime(regs, || {
            // SAFETY: dropping translations is always allowed. Stage-1 entries combined with the IPA are
            // not found by it, hence the second TLBI (Arm ARM D8.14.5).
            unsafe {
                asm!(
                    "dsb ishst",
                    "tlbi ipas2e1is, {ipa}",
                    "dsb ish",
                    "tlbi vmalle1is",
                    "dsb ish",
                    "isb",
                    ipa = in(reg) (ipa.0 >> 12) & 0xf_ffff_ffff,
                    options(nostack, preserves_flags),
                );
            }
        });
    }

    fn invalidate_vmid(&self, regs: Stage2Regs) {
        with_regime(regs, || {
            // SAFETY: dropping translations is always allowed.
            unsafe {
                asm!(
                    "dsb ishst",
                    "tlbi vmalls12e1is",
                    "dsb ish",
                    "isb",
                    options(nostack, preserves_flags)
                );
            }
        });
    }
}
