//! GICv2: distributor and CPU interfaces, memory both (GIC architecture IHI 0048B, chapter 4).
//!
//! Registers for private interrupts, and the CPU interface, are the accessing CPU's own at one address.
//! Interrupts have no groups here: with security extensions the hostvisor sees group 1 alone, in the
//! registers' place for group 0; without, all are put into group 0.

use super::{PRIORITY, bank};
use crate::hw::{self, Mmio};
use crate::machine::Region;
use abi::MAX_CPUS;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::Once;

const GICD_CTLR: u64 = 0x0;
const GICD_TYPER: u64 = 0x4;
const GICD_ITARGETSR: u64 = 0x800;
const GICD_SGIR: u64 = 0xf00;
/// GICD_SGIR.CPUTargetList: lowest bit.
const SGIR_TARGETS_SHIFT: u32 = 16;

const GICC_CTLR: u64 = 0x0;
const GICC_PMR: u64 = 0x4;
const GICC_BPR: u64 = 0x8;
const GICC_IAR: u64 = 0xc;
const GICC_EOIR: u64 = 0x10;
const GICC_APR: u64 = 0xd0;
/// Bytes of GICC that are used. GICC_DIR would be in the second page: EOImode is 0.
const GICC_USED: u64 = 0x1000;
/// Enable, of the only group there is here.
const ENABLE: u32 = 1;
/// GICC_CTLR: what firmware decides, the signals when the interface is off.
const GICC_CTLR_BYPASS: u32 = 0x1e0;

struct Registers {
    gicd: Mmio,
    gicc: Mmio,
}

static REGISTERS: Once<Registers> = Once::new();

/// A CPU that is up: its affinity, and its bit in GICD_ITARGETSR and GICD_SGIR; 0 before.
struct Target {
    mpidr: AtomicU64,
    bit: AtomicU32,
}

static TARGETS: [Target; MAX_CPUS] = [const {
    Target {
        mpidr: AtomicU64::new(0),
        bit: AtomicU32::new(0),
    }
}; MAX_CPUS];

pub(super) fn init(distributor: Region, gicc: Region) -> bool {
    let maps = (
        Mmio::map(distributor.base, distributor.size.max(0x1000)),
        Mmio::map(gicc.base, gicc.size.max(GICC_USED)),
    );
    let (Some(gicd), Some(gicc)) = maps else {
        return false;
    };
    gicd.write32(GICD_CTLR, 0);
    // GICD_TYPER.ITLinesNumber: blocks of 32 besides the private one.
    let blocks = u64::from(gicd.read32(GICD_TYPER) & 0x1f) + 1;
    for block in 1..blocks {
        reset(gicd, block);
    }
    gicd.write32(GICD_CTLR, ENABLE);
    REGISTERS.call_once(|| Registers { gicd, gicc });
    true
}

/// Disables the interrupts of a block, and makes them alike.
fn reset(gicd: Mmio, block: u64) {
    gicd.write32(bank::ICENABLER + block * 4, u32::MAX);
    gicd.write32(bank::ICACTIVER + block * 4, u32::MAX);
    gicd.write32(bank::IGROUPR + block * 4, 0);
    for word in 0..8 {
        gicd.write32(bank::IPRIORITYR + block * 32 + word * 4, PRIORITY);
    }
}

pub(super) fn init_cpu(index: usize, enabled: u32) {
    let Some(Registers { gicd, gicc }) = REGISTERS.get() else {
        return;
    };
    reset(*gicd, 0);
    gicd.write32(bank::ISENABLER, enabled);
    // Of the private interrupts, each byte tells whose they are. 0 where there is one CPU only.
    let bit = gicd.read32(GICD_ITARGETSR) & 0xff;
    if let Some(target) = TARGETS.get(index) {
        target.mpidr.store(hw::mpidr(), Ordering::Relaxed);
        target.bit.store(bit.max(1), Ordering::Release);
    }
    // Firmware may have left an interrupt unfinished.
    for word in 0..4 {
        gicc.write32(GICC_APR + word * 4, 0);
    }
    gicc.write32(GICC_PMR, 0xff);
    gicc.write32(GICC_BPR, 0);
    gicc.write32(
        GICC_CTLR,
        gicc.read32(GICC_CTLR) & GICC_CTLR_BYPASS | ENABLE,
    );
}

/// The bit of the CPU with affinity `mpidr`; 0 if it is not up.
fn target(mpidr: u64) -> u32 {
    TARGETS
        .iter()
        .filter(|target| target.mpidr.load(Ordering::Relaxed) == mpidr)
        .map(|target| target.bit.load(Ordering::Acquire))
        .find(|&bit| bit != 0)
        .unwrap_or(0)
}

pub(super) fn distributor() -> Option<Mmio> {
    REGISTERS.get().map(|registers| registers.gicd)
}

pub(super) fn enable_spi(intid: u32, mpidr: u64) {
    let Some(Registers { gicd, .. }) = REGISTERS.get() else {
        return;
    };
    let (word, shift) = (GICD_ITARGETSR + u64::from(intid & !3), intid % 4 * 8);
    let others = gicd.read32(word) & !(0xff << shift);
    gicd.write32(word, others | target(mpidr) << shift);
    gicd.write32(
        bank::ISENABLER + u64::from(intid / 32) * 4,
        1 << (intid % 32),
    );
}

#[inline]
pub(super) fn acknowledge() -> u32 {
    REGISTERS
        .get()
        .map_or(super::SPECIAL, |registers| registers.gicc.read32(GICC_IAR))
}

/// `word` as [`acknowledge`] gave it: of an SGI, the sender is in it.
#[inline]
pub(super) fn end(word: u32) {
    if let Some(registers) = REGISTERS.get() {
        registers.gicc.write32(GICC_EOIR, word);
    }
}

#[inline]
pub(super) fn send_sgi(intid: u32, mpidr: u64) {
    if let Some(registers) = REGISTERS.get() {
        // Stores before the SGI are seen by its receiver.
        hw::publish();
        let order = target(mpidr) << SGIR_TARGETS_SHIFT | intid & 0xf;
        registers.gicd.write32(GICD_SGIR, order);
    }
}

/// Writes a register of the distributor.
#[inline]
pub(super) fn write(register: u64, value: u32) {
    if let Some(registers) = REGISTERS.get() {
        registers.gicd.write32(register, value);
    }
}
