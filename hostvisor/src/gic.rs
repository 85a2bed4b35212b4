//! The machine's GICv3: distributor and redistributors (GIC architecture, IHI 0069, chapter 12).
//!
//! Interrupts are polled, never taken. A CPU's redistributor is awake already (boot did that, and RD_base is
//! read-only here); this driver touches SGI_base and the distributor only.

use crate::hw::{self, Mmio};
use crate::machine::GicRegions;
use abi::MAX_CPUS;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use spin::Once;

/// The SGI by which CPUs make each other look.
pub const SGI_LOOK: u32 = 0;
/// INTIDs from here on are no interrupts.
pub const SPECIAL: u32 = 1020;

const GICD_CTLR: u64 = 0x0;
const GICD_TYPER: u64 = 0x4;
const GICD_IGROUPR: u64 = 0x80;
const GICD_ISENABLER: u64 = 0x100;
const GICD_ICENABLER: u64 = 0x180;
const GICD_IPRIORITYR: u64 = 0x400;
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
const GICR_IGROUPR0: u64 = SGI_BASE + 0x80;
const GICR_ISENABLER0: u64 = SGI_BASE + 0x100;
const GICR_ICENABLER0: u64 = SGI_BASE + 0x180;
const GICR_ISACTIVER0: u64 = SGI_BASE + 0x300;
const GICR_ICACTIVER0: u64 = SGI_BASE + 0x380;
const GICR_IPRIORITYR: u64 = SGI_BASE + 0x400;

/// One priority for all; lower than none of them.
const PRIORITY: u32 = 0xa0a0_a0a0;

struct Redistributor {
    frame: Once<(Mmio, u64)>,
    /// What GICR_ISACTIVER0 says of [`vtimer`]: its shadow.
    vtimer_active: AtomicBool,
}

static DISTRIBUTOR: Once<Mmio> = Once::new();
/// INTID of the virtual timer. 27 by BSA; the corevisor knows what this machine has.
static VTIMER: AtomicU32 = AtomicU32::new(27);
static REDISTRIBUTORS: [Redistributor; MAX_CPUS] = [const {
    Redistributor {
        frame: Once::new(),
        vtimer_active: AtomicBool::new(false),
    }
}; MAX_CPUS];

/// Tells the virtual timer's interrupt. What is no PPI is ignored.
pub fn set_vtimer(intid: u64) {
    if let 16..32 = intid {
        VTIMER.store(intid as u32, Ordering::Relaxed);
    }
}

/// The virtual timer's interrupt, in the machine and in guests: their list registers carry the HW bit.
#[inline]
#[must_use]
pub fn vtimer() -> u32 {
    VTIMER.load(Ordering::Relaxed)
}

/// Sets the distributor up: all SPIs group 1 and disabled. False if its registers cannot be mapped.
pub fn init(regions: &GicRegions) -> bool {
    let Some(gicd) = Mmio::map(regions.distributor.base, regions.distributor.size) else {
        return false;
    };
    gicd.write32(GICD_CTLR, CTLR_ENABLE);
    while gicd.read32(GICD_CTLR) & CTLR_RWP != 0 {
        core::hint::spin_loop();
    }
    // GICD_TYPER.ITLinesNumber: blocks of 32 besides the private one.
    let blocks = u64::from(gicd.read32(GICD_TYPER) & 0x1f) + 1;
    for block in 1..blocks {
        gicd.write32(GICD_ICENABLER + block * 4, u32::MAX);
        gicd.write32(GICD_IGROUPR + block * 4, u32::MAX);
        for word in 0..8 {
            gicd.write32(GICD_IPRIORITYR + block * 32 + word * 4, PRIORITY);
        }
    }
    DISTRIBUTOR.call_once(|| gicd);
    true
}

/// Finds the redistributor of CPU `index` with affinity `mpidr` by GICR_TYPER.
pub fn find_redistributor(regions: &GicRegions, index: usize, mpidr: u64) -> bool {
    let affinity = (mpidr & 0xff_ffff) | (mpidr >> 32 & 0xff) << 24;
    for region in &regions.redistributors {
        let Some(all) = Mmio::map(region.base, region.size) else {
            continue;
        };
        let mut at = 0;
        while at + 0x2_0000 <= region.size {
            let typer = all.read64(at + GICR_TYPER);
            if typer >> 32 == affinity {
                if let Some(redistributor) = REDISTRIBUTORS.get(index) {
                    redistributor.frame.call_once(|| (all, at));
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

/// Sets this CPU's private interrupts and CPU interface up: SGI 0 and those in `mask` enabled.
pub fn init_cpu(index: usize, mask: u32) {
    let enabled = mask | 1 << SGI_LOOK;
    let write = |register, value| write_private(index, register, value);
    write(GICR_ICENABLER0, u32::MAX);
    write(GICR_ICACTIVER0, u32::MAX);
    write(GICR_IGROUPR0, u32::MAX);
    for word in 0..8 {
        write(GICR_IPRIORITYR + word * 4, PRIORITY);
    }
    write(GICR_ISENABLER0, enabled);
    hw::gic_cpu_init();
}

#[inline]
fn write_private(index: usize, register: u64, value: u32) {
    if let Some(&(all, at)) = REDISTRIBUTORS.get(index).and_then(|r| r.frame.get()) {
        all.write32(at + register, value);
    }
}

/// Enables SPI `intid` and routes it to the CPU with affinity `mpidr`.
pub fn enable_spi(intid: u32, mpidr: u64) {
    let Some(gicd) = DISTRIBUTOR.get() else {
        return;
    };
    gicd.write64(GICD_IROUTER + u64::from(intid) * 8, mpidr & 0xff_00ff_ffff);
    gicd.write32(
        GICD_ISENABLER + u64::from(intid / 32) * 4,
        1 << (intid % 32),
    );
}

/// Makes the physical virtual-timer interrupt of this CPU active or not, if it is not so already.
#[inline]
pub fn set_vtimer_active(cpu: usize, active: bool) {
    let Some(redistributor) = REDISTRIBUTORS.get(cpu) else {
        return;
    };
    if redistributor.vtimer_active.load(Ordering::Relaxed) != active {
        redistributor.vtimer_active.store(active, Ordering::Relaxed);
        let register = if active {
            GICR_ISACTIVER0
        } else {
            GICR_ICACTIVER0
        };
        write_private(cpu, register, 1u32.unbounded_shl(vtimer()));
    }
}

/// The guest's EOI has deactivated the virtual timer's interrupt on this CPU, in hardware.
#[inline]
pub fn vtimer_was_deactivated(cpu: usize) {
    if let Some(redistributor) = REDISTRIBUTORS.get(cpu) {
        redistributor.vtimer_active.store(false, Ordering::Relaxed);
    }
}
