//! GICv3: affinity routing, redistributors, and a CPU interface of system registers.

use super::CTLR;
use crate::cpu::{self, instruction, mmio, read_reg, write_reg};
use crate::platform;

const IROUTER: u64 = 0x6000;
const REDISTRIBUTOR_WAKER: u64 = 0x0014;
const REDISTRIBUTOR_BYTES: u64 = 0x2_0000;
const SGI_FRAME: u64 = 0x1_0000;

/// RD_base of the redistributor of CPU `index`: they follow each other in MPIDR order.
pub(crate) fn redistributor(index: usize) -> u64 {
    platform::gicr() + REDISTRIBUTOR_BYTES * index as u64
}

pub(super) fn sgi_frame(index: usize) -> u64 {
    redistributor(index) + SGI_FRAME
}

/// Affinity routing, group 1.
pub(super) fn init_distributor() {
    let gicd = platform::gicd();
    mmio::write32(gicd + CTLR, 0x10);
    mmio::write32(gicd + CTLR, 0x12);
}

pub(super) fn wake() {
    let waker = redistributor(cpu::index()) + REDISTRIBUTOR_WAKER;
    mmio::write32(waker, mmio::read32(waker) & !2);
}

pub(super) fn init_cpu() {
    write_reg!("icc_sre_el1", read_reg!("icc_sre_el1") | 1);
    instruction!("isb");
    write_reg!("icc_pmr_el1", 0xff);
    write_reg!("icc_bpr1_el1", 0);
    write_reg!("icc_ctlr_el1", 0);
    write_reg!("icc_igrpen1_el1", 1);
    instruction!("isb");
}

pub(super) fn route(intid: u32, mpidr: u64) {
    mmio::write64(platform::gicd() + IROUTER + u64::from(intid) * 8, mpidr);
}

pub(super) fn routed_to(intid: u32) -> u64 {
    mmio::read64(platform::gicd() + IROUTER + u64::from(intid) * 8)
}

pub(super) fn set_mask(priority: u8) {
    write_reg!("icc_pmr_el1", u64::from(priority));
}

/// What ICC_SGI1R_EL1 and ICC_SGI0R_EL1 take.
fn order(mpidr: u64, sgi: u32) -> u64 {
    let (aff0, aff1, aff2, aff3) = (
        mpidr & 0xff,
        mpidr >> 8 & 0xff,
        mpidr >> 16 & 0xff,
        mpidr >> 32 & 0xff,
    );
    aff3 << 48
        | (aff0 >> 4) << 44
        | aff2 << 32
        | u64::from(sgi) << 24
        | aff1 << 16
        | 1 << (aff0 & 0xf)
}

pub(super) fn send(mpidr: u64, sgi: u32) {
    write_reg!("icc_sgi1r_el1", order(mpidr, sgi));
    instruction!("isb");
}

pub(super) fn send_others(sgi: u32) {
    write_reg!("icc_sgi1r_el1", 1 << 40 | u64::from(sgi) << 24);
    instruction!("isb");
}

/// Lets interrupts of group 0 in, or no more.
pub(super) fn enable_group0(on: bool) {
    mmio::write32(platform::gicd() + CTLR, 0x12 | u32::from(on));
    write_reg!("icc_igrpen0_el1", u64::from(on));
    instruction!("isb");
}

/// Sends `sgi` to this CPU by ICC_SGI0R_EL1.
pub(crate) fn send_group0(sgi: u32) {
    write_reg!("icc_sgi0r_el1", order(cpu::mpidr(), sgi));
    instruction!("isb");
}

pub(crate) fn acknowledge_group0() -> u32 {
    let intid = read_reg!("icc_iar0_el1") as u32 & 0xff_ffff;
    instruction!("dsb sy");
    intid
}

pub(crate) fn end_group0(taken: u32) {
    write_reg!("icc_eoir0_el1", u64::from(taken));
    instruction!("isb");
}

pub(super) fn acknowledge() -> u32 {
    let intid = read_reg!("icc_iar1_el1") as u32 & 0xff_ffff;
    instruction!("dsb sy");
    intid
}

pub(super) fn end(taken: u32) {
    write_reg!("icc_eoir1_el1", u64::from(taken));
    instruction!("isb");
}
