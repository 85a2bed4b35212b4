//! The EL2 stage-1 regime: register values and switching it on. The tables come from
//! [`crate::stage1`].

use crate::stage1::{MAIR, VA_BITS};
use aarch64_cpu::registers::{HCR_EL2, ID_AA64MMFR0_EL1, Readable};
use core::arch::asm;

/// Register values every CPU loads to run under the same tables.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Regime {
    /// TTBR0_EL2: the level 0 table.
    pub ttbr0: u64,
    /// TCR_EL2.
    pub tcr: u64,
    /// MAIR_EL2.
    pub mair: u64,
    /// SCTLR_EL2 with MMU, caches and WXN on.
    pub sctlr: u64,
}

/// TCR_EL2 (E2H = 0) bits 31 and 23: RES1.
const TCR_RES1: u64 = 1 << 31 | 1 << 23;
/// TCR_EL2.{IRGN0, ORGN0}: table walks are write-back write-allocate; SH0: inner shareable.
const TCR_WALKS: u64 = 0b01 << 8 | 0b01 << 10 | 0b11 << 12;
/// TCR_EL2.PS: lowest bit.
const TCR_PS_SHIFT: u32 = 16;

/// SCTLR_EL2 bits that are RES1 where no extension gives them a meaning (Arm ARM D24.2.164).
pub const SCTLR_RES1: u64 = 0x30C5_0830;
/// SCTLR_EL2.M: MMU on.
const SCTLR_M: u64 = 1 << 0;
/// SCTLR_EL2.C: data caches on.
const SCTLR_C: u64 = 1 << 2;
/// SCTLR_EL2.SA: stack alignment check.
const SCTLR_SA: u64 = 1 << 3;
/// SCTLR_EL2.I: instruction cache on.
const SCTLR_I: u64 = 1 << 12;
/// SCTLR_EL2.WXN: what is writable is never executable.
const SCTLR_WXN: u64 = 1 << 19;

/// ID_AA64MMFR0_EL1.PARange, capped at what a 4 KiB granule without LPA2 can say.
#[must_use]
pub fn pa_range() -> u64 {
    ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange).min(0b0101)
}

/// Bits of physical address that the CPU has and this regime can name.
#[must_use]
pub fn pa_bits() -> u32 {
    match pa_range() {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

/// True if HCR_EL2.E2H is 1 though the entry stub wrote 0: a CPU without FEAT_E2H0, whose EL2 registers have
/// another layout than all of this knows. At EL2 only.
#[must_use]
pub fn has_vhe_only() -> bool {
    HCR_EL2.is_set(HCR_EL2::E2H)
}

impl Regime {
    /// The regime whose level 0 table is at `root`.
    #[must_use]
    pub fn new(root: u64) -> Self {
        Self {
            ttbr0: root,
            tcr: TCR_RES1 | TCR_WALKS | pa_range() << TCR_PS_SHIFT | u64::from(64 - VA_BITS),
            mair: MAIR,
            sctlr: SCTLR_RES1 | SCTLR_M | SCTLR_C | SCTLR_SA | SCTLR_I | SCTLR_WXN,
        }
    }

    /// Switches this CPU's EL2 MMU and caches on.
    ///
    /// # Safety
    /// The MMU is off; the tables map the running code, its stack and its data at their physical
    /// addresses, stay as they are for ever, and are in memory, with no stale line of theirs or of
    /// anything written with caches off in a cache.
    pub unsafe fn enable(&self) {
        // SAFETY: the caller's promise; the TLB holds nothing of an earlier regime afterwards.
        unsafe {
            asm!(
                "msr mair_el2, {mair}",
                "msr tcr_el2, {tcr}",
                "msr ttbr0_el2, {ttbr0}",
                "dsb sy",
                "isb",
                "tlbi alle2",
                "ic iallu",
                "dsb sy",
                "isb",
                "msr sctlr_el2, {sctlr}",
                "isb",
                mair = in(reg) self.mair,
                tcr = in(reg) self.tcr,
                ttbr0 = in(reg) self.ttbr0,
                sctlr = in(reg) self.sctlr,
                options(nostack, preserves_flags),
            );
        }
    }
}
