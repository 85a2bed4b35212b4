//! The interrupt controller as this program itself uses it: timer and SGI 0, on GICv3 or GICv2.

use crate::cpu::{self, mrs, msr};
use crate::verdict::Failure;
use crate::{access, board};
use core::sync::atomic::{AtomicBool, Ordering};

/// GICv2: no system registers to reach it by.
static V2: AtomicBool = AtomicBool::new(false);

// GICv2's CPU interface.
const GICC_CTLR: u64 = board::GICC;
const GICC_PMR: u64 = board::GICC + 0x4;
const GICC_IAR: u64 = board::GICC + 0xc;
const GICC_EOIR: u64 = board::GICC + 0x10;
/// Sends an SGI.
const GICD_SGIR: u64 = board::GICD + 0xf00;

/// INTIDs from here on stand for no interrupt.
const SPECIAL: u32 = 1020;

/// 2 or 3.
pub(crate) fn version() -> u32 {
    if V2.load(Ordering::SeqCst) { 2 } else { 3 }
}

/// An attack that is none on the other version is skipped there.
pub(crate) fn needs(wanted: u32) -> Result<(), Failure> {
    if version() == wanted {
        Ok(())
    } else {
        Err(Failure::Skipped("needs the other GIC"))
    }
}

/// Before all else, on the first CPU: finds out which it is, and switches the distributor on.
pub(crate) fn init() {
    // ID_AA64PFR0_EL1.GIC.
    V2.store(mrs!("id_aa64pfr0_el1") >> 24 & 0xf == 0, Ordering::SeqCst);
    // GICD_CTLR: all there is, or affinity routing and group 1.
    let on = if version() == 2 { 1 } else { 0x12 };
    let _ = access::write32(board::GICD, on);
}

/// This CPU's interrupts; DAIF stays masked.
pub(crate) fn init_cpu() {
    let enabled = 1 << board::TIMER_INTID | 1;
    if version() == 2 {
        // GICD_ISENABLER0.
        let _ = access::write32(board::GICD + 0x100, enabled);
        let _ = access::write32(GICC_PMR, 0xff);
        let _ = access::write32(GICC_CTLR, 1);
        return;
    }
    let frame = board::GICR + board::GICR_STRIDE * cpu::index() as u64 + 0x1_0000;
    // GICR_IGROUPR0, GICR_ISENABLER0.
    let _ = access::write32(frame + 0x80, u32::MAX);
    let _ = access::write32(frame + 0x100, enabled);
    // ICC_PMR_EL1, ICC_IGRPEN1_EL1.
    msr!("s3_0_c4_c6_0", 0xff);
    msr!("s3_0_c12_c12_7", 1);
}

/// Acknowledges and ends what is pending; false if nothing was.
pub(crate) fn take_interrupt() -> bool {
    if version() == 2 {
        let taken = access::read32(GICC_IAR).unwrap_or(SPECIAL);
        let any = taken & 0x3ff < SPECIAL;
        if any {
            let _ = access::write32(GICC_EOIR, taken);
        }
        return any;
    }
    // ICC_IAR1_EL1, ICC_EOIR1_EL1.
    let intid = mrs!("s3_0_c12_c12_0") as u32 & 0xff_ffff;
    let any = intid < SPECIAL;
    if any {
        msr!("s3_0_c12_c12_1", u64::from(intid));
    }
    any
}

/// Sends SGI 0 to CPU `index`.
pub(crate) fn kick(index: usize) {
    cpu::barrier();
    if version() == 2 {
        let _ = access::write32(GICD_SGIR, 1 << (16 + index));
    } else {
        // ICC_SGI1R_EL1.
        msr!("s3_0_c12_c11_5", 1u64 << index);
    }
}
