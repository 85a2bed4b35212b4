//! The GICv3 virtualisation registers ICH_* (GIC architecture §12.4).

use super::cpu::{mrs, msr};
use crate::context::VgicRegs;
use crate::traps;

/// ICH_HCR_EL2.En.
const EN: u64 = 1;

/// Sets up this CPU's system-register interface; returns the numbers of list registers and of
/// active-priority registers per group.
pub(super) fn init() -> (usize, usize) {
    // Enable = 1 to write ICC_SRE_EL1 once, then 0 for good: worlds cannot leave the interface.
    msr!("s3_4_c12_c9_5", traps::ICC_SRE_EL2 | 1 << 3);
    isb();
    msr!("s3_0_c12_c12_5", traps::ICC_SRE_EL1);
    msr!("s3_4_c12_c9_5", traps::ICC_SRE_EL2);
    isb();
    msr!("s3_4_c12_c11_0", 0);
    let vtr = mrs!("s3_4_c12_c11_1");
    let lrs = ((vtr & 0x1f) + 1) as usize;
    // PREbits: 5 → 1 register, 6 → 2, 7 → 4.
    let preemption_bits = ((vtr >> 26) & 7) + 1;
    (
        lrs.min(abi::run::MAX_LIST_REGISTERS),
        match preemption_bits {
            7 => 4,
            6 => 2,
            _ => 1,
        },
    )
}

/// Leaves the system-register interface off for good: worlds find its registers UNDEFINED, and what
/// turns it on traps.
pub(super) fn disable() {
    msr!("s3_4_c12_c9_5", 0);
    isb();
}

fn isb() {
    // SAFETY: a context synchronisation has no other effect.
    unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) }
}

/// Writes ICH_LR<n>_EL2; `n` is below the number `init` told.
pub(super) fn write_lr(n: usize, value: u64) {
    match n {
        0 => msr!("s3_4_c12_c12_0", value),
        1 => msr!("s3_4_c12_c12_1", value),
        2 => msr!("s3_4_c12_c12_2", value),
        3 => msr!("s3_4_c12_c12_3", value),
        4 => msr!("s3_4_c12_c12_4", value),
        5 => msr!("s3_4_c12_c12_5", value),
        6 => msr!("s3_4_c12_c12_6", value),
        7 => msr!("s3_4_c12_c12_7", value),
        8 => msr!("s3_4_c12_c13_0", value),
        9 => msr!("s3_4_c12_c13_1", value),
        10 => msr!("s3_4_c12_c13_2", value),
        11 => msr!("s3_4_c12_c13_3", value),
        12 => msr!("s3_4_c12_c13_4", value),
        13 => msr!("s3_4_c12_c13_5", value),
        14 => msr!("s3_4_c12_c13_6", value),
        15 => msr!("s3_4_c12_c13_7", value),
        _ => {}
    }
}

/// Reads ICH_LR<n>_EL2; `n` is below the number `init` told.
pub(super) fn read_lr(n: usize) -> u64 {
    match n {
        0 => mrs!("s3_4_c12_c12_0"),
        1 => mrs!("s3_4_c12_c12_1"),
        2 => mrs!("s3_4_c12_c12_2"),
        3 => mrs!("s3_4_c12_c12_3"),
        4 => mrs!("s3_4_c12_c12_4"),
        5 => mrs!("s3_4_c12_c12_5"),
        6 => mrs!("s3_4_c12_c12_6"),
        7 => mrs!("s3_4_c12_c12_7"),
        8 => mrs!("s3_4_c12_c13_0"),
        9 => mrs!("s3_4_c12_c13_1"),
        10 => mrs!("s3_4_c12_c13_2"),
        11 => mrs!("s3_4_c12_c13_3"),
        12 => mrs!("s3_4_c12_c13_4"),
        13 => mrs!("s3_4_c12_c13_5"),
        14 => mrs!("s3_4_c12_c13_6"),
        15 => mrs!("s3_4_c12_c13_7"),
        _ => 0,
    }
}

/// Loads VMCR and the active priorities, then turns the interface on.
pub(super) fn load(regs: &VgicRegs, hcr: u64, apr_count: usize) {
    msr!("s3_4_c12_c11_7", regs.vmcr);
    msr!("s3_4_c12_c8_0", regs.ap0r[0]);
    msr!("s3_4_c12_c9_0", regs.ap1r[0]);
    if apr_count > 1 {
        msr!("s3_4_c12_c8_1", regs.ap0r[1]);
        msr!("s3_4_c12_c9_1", regs.ap1r[1]);
    }
    if apr_count > 2 {
        msr!("s3_4_c12_c8_2", regs.ap0r[2]);
        msr!("s3_4_c12_c8_3", regs.ap0r[3]);
        msr!("s3_4_c12_c9_2", regs.ap1r[2]);
        msr!("s3_4_c12_c9_3", regs.ap1r[3]);
    }
    msr!("s3_4_c12_c11_0", hcr | EN);
}

/// Saves what [`load`] loaded and turns the interface off.
pub(super) fn save(regs: &mut VgicRegs, apr_count: usize) {
    regs.vmcr = mrs!("s3_4_c12_c11_7");
    regs.ap0r[0] = mrs!("s3_4_c12_c8_0");
    regs.ap1r[0] = mrs!("s3_4_c12_c9_0");
    if apr_count > 1 {
        regs.ap0r[1] = mrs!("s3_4_c12_c8_1");
        regs.ap1r[1] = mrs!("s3_4_c12_c9_1");
    }
    if apr_count > 2 {
        regs.ap0r[2] = mrs!("s3_4_c12_c8_2");
        regs.ap0r[3] = mrs!("s3_4_c12_c8_3");
        regs.ap1r[2] = mrs!("s3_4_c12_c9_2");
        regs.ap1r[3] = mrs!("s3_4_c12_c9_3");
    }
    msr!("s3_4_c12_c11_0", 0);
}
