//! The machine's interrupt controller: a GICv2 or a GICv3, by its device tree.
//!
//! Interrupts are polled, never taken. What the two have in common is here: which interrupt is the virtual
//! timer's, and whether it is active.

mod v2;
mod v3;

use crate::hw;
use crate::machine::{GicInterface, GicRegions};
use crate::vgic::Model;
use abi::MAX_CPUS;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The SGI by which CPUs make each other look.
pub const SGI_LOOK: u32 = 0;
/// The first shared peripheral interrupt.
pub const FIRST_SPI: u32 = 32;
/// INTIDs from here on are no interrupts.
pub const SPECIAL: u32 = 1020;
/// What of an acknowledged word is the INTID: neither has others, as LPIs stay off.
const INTID: u32 = 0x3ff;

/// One priority for all; lower than none of them.
const PRIORITY: u32 = 0xa0a0_a0a0;

/// Registers that GICv2's distributor, GICv3's, and the SGI frame of a redistributor have in common.
mod bank {
    pub(super) const IGROUPR: u64 = 0x80;
    pub(super) const ISENABLER: u64 = 0x100;
    pub(super) const ICENABLER: u64 = 0x180;
    pub(super) const ISACTIVER: u64 = 0x300;
    pub(super) const ICACTIVER: u64 = 0x380;
    pub(super) const IPRIORITYR: u64 = 0x400;
    pub(super) const ICFGR: u64 = 0xc00;
}

/// The machine has a GICv2.
static IS_V2: AtomicBool = AtomicBool::new(false);
/// INTID of the virtual timer. 27 by BSA; the corevisor knows what this machine has.
static VTIMER: AtomicU32 = AtomicU32::new(27);
/// A list register's HW bit does deactivate.
static HW_DEACTIVATES: AtomicBool = AtomicBool::new(true);
/// What each CPU's distributor or redistributor says of [`vtimer`] being active: its shadow.
static VTIMER_ACTIVE: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

#[inline]
fn is_v2() -> bool {
    IS_V2.load(Ordering::Relaxed)
}

/// Which architecture the machine's GIC is of, and so the guests'.
#[must_use]
pub fn model() -> Model {
    if is_v2() { Model::V2 } else { Model::V3 }
}

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

/// True if the HW bit of a list register works: the guest's deactivation deactivates the machine's
/// interrupt.
#[must_use]
pub fn hw_deactivates() -> bool {
    HW_DEACTIVATES.load(Ordering::Relaxed)
}

/// Sets the distributor up: all SPIs disabled. False if its registers cannot be mapped.
pub fn init(regions: &GicRegions) -> bool {
    match &regions.interface {
        GicInterface::Redistributors(_) => v3::init(regions.distributor),
        GicInterface::Memory {
            gicc,
            hw_deactivates,
        } => {
            IS_V2.store(true, Ordering::Relaxed);
            HW_DEACTIVATES.store(*hw_deactivates, Ordering::Relaxed);
            v2::init(regions.distributor, *gicc)
        }
    }
}

/// Finds what of the controller is CPU `index`'s own, whose affinity is `mpidr`. False if there is none.
pub fn find_cpu(regions: &GicRegions, index: usize, mpidr: u64) -> bool {
    match &regions.interface {
        GicInterface::Redistributors(rows) => v3::find_redistributor(rows, index, mpidr),
        // The same addresses for every CPU.
        GicInterface::Memory { .. } => true,
    }
}

/// Sets this CPU's private interrupts and CPU interface up: SGI 0 and those in `mask` enabled.
pub fn init_cpu(index: usize, mask: u32) {
    let enabled = mask | 1 << SGI_LOOK;
    if is_v2() {
        v2::init_cpu(index, enabled);
    } else {
        v3::init_cpu(index, enabled);
    }
}

/// Says whether SPI `intid`, which is disabled, is signalled by an edge or by a level. By one CPU at a time.
pub fn set_trigger(intid: u32, edge: bool) {
    let register = bank::ICFGR + u64::from(intid / 16) * 4;
    // Int_config: two bits an interrupt, of which the upper one says edge.
    let flag = 2 << (intid % 16 * 2);
    let distributor = if is_v2() {
        v2::distributor()
    } else {
        v3::distributor()
    };
    if let Some(gicd) = distributor {
        let others = gicd.read32(register) & !flag;
        gicd.write32(register, others | if edge { flag } else { 0 });
    }
}

/// Enables SPI `intid` and routes it to the CPU with affinity `mpidr`, which is up. By one CPU at a time.
pub fn enable_spi(intid: u32, mpidr: u64) {
    if is_v2() {
        v2::enable_spi(intid, mpidr);
    } else {
        v3::enable_spi(intid, mpidr);
    }
}

/// An interrupt that was taken: what ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acknowledged(u32);

impl Acknowledged {
    /// Its INTID; from [`SPECIAL`] on there was none.
    #[must_use]
    pub const fn intid(self) -> u32 {
        self.0 & INTID
    }

    /// Ends it: priority drop and deactivation.
    #[inline]
    pub fn end(self) {
        if is_v2() {
            v2::end(self.0);
        } else {
            hw::end_of_interrupt(self.0);
        }
    }
}

/// Takes the highest pending interrupt of this CPU.
#[inline]
#[must_use]
pub fn acknowledge() -> Acknowledged {
    Acknowledged(if is_v2() {
        v2::acknowledge()
    } else {
        hw::acknowledge()
    })
}

/// Sends SGI `intid` to the CPU with affinity `mpidr`.
#[inline]
pub fn send_sgi(intid: u32, mpidr: u64) {
    if is_v2() {
        v2::send_sgi(intid, mpidr);
    } else {
        hw::send_sgi(intid, mpidr);
    }
}

/// Makes the physical virtual-timer interrupt of this CPU active or not, if it is not so already.
#[inline]
pub fn set_vtimer_active(cpu: usize, active: bool) {
    let Some(shadow) = VTIMER_ACTIVE.get(cpu) else {
        return;
    };
    if shadow.load(Ordering::Relaxed) != active {
        shadow.store(active, Ordering::Relaxed);
        let register = if active {
            bank::ISACTIVER
        } else {
            bank::ICACTIVER
        };
        let flag = 1u32.unbounded_shl(vtimer());
        if is_v2() {
            v2::write(register, flag);
        } else {
            v3::write_private(cpu, register, flag);
        }
    }
}

/// The virtual timer's interrupt on this CPU has been deactivated: by the guest's EOI in hardware, or by
/// [`Acknowledged::end`].
#[inline]
pub fn vtimer_was_deactivated(cpu: usize) {
    if let Some(shadow) = VTIMER_ACTIVE.get(cpu) {
        shadow.store(false, Ordering::Relaxed);
    }
}
