//! GICv3: distributor, redistributors, and a CPU interface of system registers (GIC architecture, IHI 0069,
//! chapter 12).
//!
//! A CPU's redistributor is awake already (boot did that, and RD_base is read-only here); this driver touches
//! SGI_base and the distributor only.

use super::{PRIORITY, bank};
use crate::hw::{self, Mmio};
use crate::machine::Region;
use abi::MAX_CPUS;
use spin::Once;

const GICD_CTLR: u64 = 0x0;
const GICD_TYPER: u64 = 0x4;
const GICD_IROUTER: u64 = 0x6000;
/// GICD_CTLR: EnableGrp1(A) and ARE(_NS), the same bits in both views.
const CTLR_ENABLE: u32 = 1 << 1 | 1 << 4;
/// GICD_CTLR.RWP.
const CTLR_RWP: u32 = 1 << 31;

const GICR_TYPER: u64 = 0x8;
/// GICR_TYPER.VLPIS: two more frames a CPU.
const TYPER_VLPIS: u64 = 1 << 1;
/// GICR_TYPER.Last.
const TYPER_LAST: u64 = 1 << 4;
const SGI_BASE: u64 = 0x1_0000;

static DISTRIBUTOR: Once<Mmio> = Once::new();
/// Each CPU's redistributor: a mapping, and the offset in it.
static REDISTRIBUTORS: [Once<(Mmio, u64)>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// All SPIs go to group 1.
pub(super) fn init(distributor: Region) -> bool {
    let Some(gicd) = Mmio::map(distributor.base, distributor.size) else {
        return false;
    };
    gicd.write32(GICD_CTLR, CTLR_ENABLE);
    while gicd.read32(GICD_CTLR) & CTLR_RWP != 0 {
        hw::relax();
    }
    // GICD_TYPER.ITLinesNumber: blocks of 32 besides the private one.
    let blocks = u64::from(gicd.read32(GICD_TYPER) & 0x1f) + 1;
    for block in 1..blocks {
        gicd.write32(bank::ICENABLER + block * 4, u32::MAX);
        gicd.write32(bank::ICACTIVER + block * 4, u32::MAX);
        gicd.write32(bank::IGROUPR + block * 4, u32::MAX);
        for word in 0..8 {
            gicd.write32(bank::IPRIORITYR + block * 32 + word * 4, PRIORITY);
        }
    }
    DISTRIBUTOR.call_once(|| gicd);
    true
}

/// Finds the redistributor of CPU `index` with affinity `mpidr` by GICR_TYPER.
pub(super) fn find_redistributor(rows: &[Region], index: usize, mpidr: u64) -> bool {
    let affinity = (mpidr & 0xff_ffff) | (mpidr >> 32 & 0xff) << 24;
    for region in rows {
        let Some(all) = Mmio::map(region.base, region.size) else {
            continue;
        };
        let mut at = 0;
        while at + 0x2_0000 <= region.size {
            let typer = all.read64(at + GICR_TYPER);
            if typer >> 32 == affinity {
                if let Some(redistributor) = REDISTRIBUTORS.get(index) {
                    redistributor.call_once(|| (all, at));
                }
                return true;
            }
            if typer & TYPER_LAST != 0 {
                break;
            }
            at += if typer & TYPER_VLPIS != 0 {
                0x4_0000
            } else {
                0x2_0000
            };
        }
    }
    false
}

pub(super) fn init_cpu(index: usize, enabled: u32) {
    let write = |register, value| write_private(index, register, value);
    write(bank::ICENABLER, u32::MAX);
    write(bank::ICACTIVER, u32::MAX);
    write(bank::IGROUPR, u32::MAX);
    for word in 0..8 {
        write(bank::IPRIORITYR + word * 4, PRIORITY);
    }
    write(bank::ISENABLER, enabled);
    hw::gic_cpu_init();
}

/// Writes a register of the SGI frame of CPU `index`.
#[inline]
pub(super) fn write_private(index: usize, register: u64, value: u32) {
    if let Some(&(all, at)) = REDISTRIBUTORS.get(index).and_then(Once::get) {
        all.write32(at + SGI_BASE + register, value);
    }
}

pub(super) fn distributor() -> Option<Mmio> {
    DISTRIBUTOR.get().copied()
}

pub(super) fn enable_spi(intid: u32, mpidr: u64) {
    let Some(gicd) = DISTRIBUTOR.get() else {
        return;
    };
    gicd.write64(GICD_IROUTER + u64::from(intid) * 8, mpidr & 0xff_00ff_ffff);
    gicd.write32(
        bank::ISENABLER + u64::from(intid / 32) * 4,
        1 << (intid % 32),
    );
}
