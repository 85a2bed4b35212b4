//! A small GICv3 driver: every interrupt in group 1, one counter for each CPU and INTID.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::cpu::{self, MAX_CPUS, instruction, mmio, read_reg, write_reg};
use crate::platform;
use crate::timer::{PHYSICAL_INTID, Timer, VIRTUAL_INTID};

/// Interrupts counted: SGIs, PPIs and the first SPIs.
pub(crate) const INTIDS: usize = 96;

// Distributor registers (IHI 0069 12.9); the first 32 interrupts' are in the SGI frame.
const CTLR: u64 = 0x0000;
const TYPER: u64 = 0x0004;
const IGROUPR: u64 = 0x0080;
const ISENABLER: u64 = 0x0100;
const ICENABLER: u64 = 0x0180;
const ISPENDR: u64 = 0x0200;
const ICPENDR: u64 = 0x0280;
const ISACTIVER: u64 = 0x0300;
const IPRIORITYR: u64 = 0x0400;
const ICFGR: u64 = 0x0c00;
const IROUTER: u64 = 0x6000;
const REDISTRIBUTOR_WAKER: u64 = 0x0014;
const REDISTRIBUTOR_BYTES: u64 = 0x2_0000;
const SGI_FRAME: u64 = 0x1_0000;

/// The priority every interrupt starts with.
pub(crate) const PRIORITY: u8 = 0xa0;

static COUNTS: [[AtomicU32; INTIDS]; MAX_CPUS] =
    [const { [const { AtomicU32::new(0) }; INTIDS] }; MAX_CPUS];
static HOOKS: [AtomicUsize; INTIDS] = [const { AtomicUsize::new(0) }; INTIDS];
/// Interrupts with an INTID above those counted, and spurious ones.
static STRAY: AtomicU32 = AtomicU32::new(0);

/// Runs in the handler, between acknowledge and end of interrupt.
pub(crate) type Hook = fn(u32);

/// How often `cpu` took `intid`.
pub(crate) fn count(cpu: usize, intid: u32) -> u32 {
    COUNTS[cpu][intid as usize].load(Ordering::SeqCst)
}

/// How many interrupts nobody asked for were taken.
pub(crate) fn strays() -> u32 {
    STRAY.load(Ordering::SeqCst)
}

/// Sets or removes the hook of an interrupt, on all CPUs.
pub(crate) fn hook(intid: u32, hook: Option<Hook>) {
    HOOKS[intid as usize].store(hook.map_or(0, |f| f as usize), Ordering::SeqCst);
}

/// Register of the distributor, or of this CPU's SGI frame, that holds `intid`'s field of `bits` bits.
fn register(base: u64, intid: u32, bits: u32) -> u64 {
    let frame = if intid < 32 {
        redistributor(cpu::index()) + SGI_FRAME
    } else {
        platform::gicd()
    };
    frame + base + u64::from(intid * bits / 32) * 4
}

fn bit(intid: u32) -> u32 {
    1 << (intid % 32)
}

/// RD_base of the redistributor of CPU `index`: they follow each other in MPIDR order.
pub(crate) fn redistributor(index: usize) -> u64 {
    platform::gicr() + REDISTRIBUTOR_BYTES * index as u64
}

/// Sets the distributor up: affinity routing, group 1, everything disabled.
pub(crate) fn init_distributor() {
    let gicd = platform::gicd();
    mmio::write32(gicd + CTLR, 0x10);
    mmio::write32(gicd + CTLR, 0x12);
    for intid in (32..spis_end()).step_by(32) {
        mmio::write32(register(IGROUPR, intid, 1), !0);
        mmio::write32(register(ICENABLER, intid, 1), !0);
        mmio::write32(register(ICPENDR, intid, 1), !0);
    }
}

/// First INTID behind the SPIs the distributor has.
pub(crate) fn spis_end() -> u32 {
    let lines = mmio::read32(platform::gicd() + TYPER) & 0x1f;
    (32 * (lines + 1)).min(1020)
}

/// Sets this CPU's redistributor and CPU interface up and lets interrupts in.
pub(crate) fn init_cpu() {
    let rd = redistributor(cpu::index());
    mmio::write32(
        rd + REDISTRIBUTOR_WAKER,
        mmio::read32(rd + REDISTRIBUTOR_WAKER) & !2,
    );
    mmio::write32(rd + SGI_FRAME + IGROUPR, !0);
    mmio::write32(rd + SGI_FRAME + ICENABLER, !0);
    mmio::write32(rd + SGI_FRAME + ICPENDR, !0);
    write_reg!("icc_sre_el1", read_reg!("icc_sre_el1") | 1);
    instruction!("isb");
    write_reg!("icc_pmr_el1", 0xff);
    write_reg!("icc_bpr1_el1", 0);
    write_reg!("icc_ctlr_el1", 0);
    write_reg!("icc_igrpen1_el1", 1);
    instruction!("isb");
    for intid in (0..16).chain([VIRTUAL_INTID, PHYSICAL_INTID]) {
        set_priority(intid, PRIORITY);
        enable(intid);
    }
    cpu::unmask();
}

/// Enables an interrupt (an SGI or PPI on this CPU).
pub(crate) fn enable(intid: u32) {
    mmio::write32(register(ISENABLER, intid, 1), bit(intid));
    cpu::barrier();
}

/// Disables an interrupt.
pub(crate) fn disable(intid: u32) {
    mmio::write32(register(ICENABLER, intid, 1), bit(intid));
    cpu::barrier();
    // GICD_CTLR.RWP: the disable has reached the CPU interfaces.
    while mmio::read32(platform::gicd() + CTLR) & (1 << 31) != 0 {}
}

/// Sets the priority byte.
pub(crate) fn set_priority(intid: u32, priority: u8) {
    mmio::write8(priority_register(intid), priority);
}

/// Address of the priority byte.
pub(crate) fn priority_register(intid: u32) -> u64 {
    register(IPRIORITYR, intid, 8) + u64::from(intid % 4)
}

/// Makes an interrupt pending.
pub(crate) fn set_pending(intid: u32) {
    mmio::write32(register(ISPENDR, intid, 1), bit(intid));
    cpu::barrier();
}

/// Takes back what made it pending.
pub(crate) fn clear_pending(intid: u32) {
    mmio::write32(register(ICPENDR, intid, 1), bit(intid));
    cpu::barrier();
}

/// Whether it is pending.
pub(crate) fn is_pending(intid: u32) -> bool {
    mmio::read32(register(ISPENDR, intid, 1)) & bit(intid) != 0
}

/// Whether it is active.
pub(crate) fn is_active(intid: u32) -> bool {
    mmio::read32(register(ISACTIVER, intid, 1)) & bit(intid) != 0
}

/// Whether it is enabled.
pub(crate) fn is_enabled(intid: u32) -> bool {
    mmio::read32(register(ISENABLER, intid, 1)) & bit(intid) != 0
}

/// Edge-triggered or level-sensitive.
pub(crate) fn set_edge(intid: u32, edge: bool) {
    let address = register(ICFGR, intid, 2);
    let field = 2 << (intid % 16 * 2);
    let old = mmio::read32(address);
    mmio::write32(address, if edge { old | field } else { old & !field });
}

/// Routes an SPI to the CPU with this MPIDR.
pub(crate) fn route(intid: u32, mpidr: u64) {
    mmio::write64(platform::gicd() + IROUTER + u64::from(intid) * 8, mpidr);
    cpu::barrier();
}

/// Where an SPI is routed to.
pub(crate) fn routed_to(intid: u32) -> u64 {
    mmio::read64(platform::gicd() + IROUTER + u64::from(intid) * 8)
}

/// Lowest priority that gets through to this CPU, ICC_PMR_EL1.
pub(crate) fn set_mask(priority: u8) {
    write_reg!("icc_pmr_el1", u64::from(priority));
    cpu::barrier();
}

/// Sends an SGI to the CPU with this MPIDR.
pub(crate) fn send(mpidr: u64, sgi: u32) {
    let (aff0, aff1, aff2, aff3) = (
        mpidr & 0xff,
        mpidr >> 8 & 0xff,
        mpidr >> 16 & 0xff,
        mpidr >> 32 & 0xff,
    );
    let value = aff3 << 48
        | (aff0 >> 4) << 44
        | aff2 << 32
        | u64::from(sgi) << 24
        | aff1 << 16
        | 1 << (aff0 & 0xf);
    instruction!("dsb sy");
    write_reg!("icc_sgi1r_el1", value);
    instruction!("isb");
}

/// Sends an SGI to all CPUs but this one.
pub(crate) fn send_others(sgi: u32) {
    instruction!("dsb sy");
    write_reg!("icc_sgi1r_el1", 1 << 40 | u64::from(sgi) << 24);
    instruction!("isb");
}

/// The IRQ vector.
pub(crate) fn handle_interrupt() {
    let intid = read_reg!("icc_iar1_el1") as u32 & 0xff_ffff;
    instruction!("dsb sy");
    let index = cpu::index();
    if intid as usize >= INTIDS {
        STRAY.fetch_add(1, Ordering::SeqCst);
        if intid < 1020 {
            write_reg!("icc_eoir1_el1", u64::from(intid));
        }
        return;
    }
    match intid {
        VIRTUAL_INTID => Timer::Virtual.control(0),
        PHYSICAL_INTID => Timer::Physical.control(0),
        _ => {}
    }
    COUNTS[index][intid as usize].fetch_add(1, Ordering::SeqCst);
    let hook = HOOKS[intid as usize].load(Ordering::SeqCst);
    if hook != 0 {
        // SAFETY: only `hook` stores here, and only a `Hook`.
        let hook = unsafe { core::mem::transmute::<usize, Hook>(hook) };
        hook(intid);
    }
    write_reg!("icc_eoir1_el1", u64::from(intid));
    instruction!("isb");
}
