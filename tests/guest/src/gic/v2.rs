//! GICv2: the CPU interface is memory, the same addresses for every CPU; SGIs by a register of the
//! distributor, and their receiver learns who sent them. CPU n has interface n, on QEMU's board and in VMs.

use core::sync::atomic::{AtomicU32, Ordering};

use super::CTLR;
use crate::cpu::{self, MAX_CPUS, mmio};
use crate::platform;

const ITARGETSR: u64 = 0x800;
const SGIR: u64 = 0xf00;
const SGIR_OTHERS: u32 = 1 << 24;
const GICC_CTLR: u64 = 0x0;
const GICC_PMR: u64 = 0x4;
const GICC_BPR: u64 = 0x8;
const GICC_IAR: u64 = 0xc;
const GICC_EOIR: u64 = 0x10;

static SENDERS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

fn gicc() -> u64 {
    platform::gicc().unwrap_or(0)
}

pub(super) fn init_distributor() {
    mmio::write32(platform::gicd() + CTLR, 1);
}

pub(super) fn init_cpu() {
    mmio::write32(gicc() + GICC_PMR, 0xff);
    mmio::write32(gicc() + GICC_BPR, 0);
    mmio::write32(gicc() + GICC_CTLR, 1);
}

pub(super) fn route(intid: u32, mpidr: u64) {
    let register = platform::gicd() + ITARGETSR + u64::from(intid);
    mmio::write8(register, 1 << (mpidr & 7));
}

/// On a machine with one CPU the register reads 0, and means that CPU.
pub(super) fn routed_to(intid: u32) -> u64 {
    let targets = mmio::read8(platform::gicd() + ITARGETSR + u64::from(intid));
    u64::from(targets.max(1).trailing_zeros())
}

pub(super) fn set_mask(priority: u8) {
    mmio::write32(gicc() + GICC_PMR, priority.into());
}

pub(super) fn send(mpidr: u64, sgi: u32) {
    mmio::write32(platform::gicd() + SGIR, 1 << (mpidr & 7) << 16 | sgi);
}

pub(super) fn send_others(sgi: u32) {
    mmio::write32(platform::gicd() + SGIR, SGIR_OTHERS | sgi);
}

pub(super) fn last_sender(index: usize) -> u32 {
    SENDERS[index].load(Ordering::SeqCst)
}

pub(super) fn acknowledge() -> u32 {
    let taken = mmio::read32(gicc() + GICC_IAR);
    if taken & super::INTID < 16 {
        SENDERS[cpu::index()].store(taken >> 10 & 7, Ordering::SeqCst);
    }
    taken
}

pub(super) fn end(taken: u32) {
    mmio::write32(gicc() + GICC_EOIR, taken);
}
