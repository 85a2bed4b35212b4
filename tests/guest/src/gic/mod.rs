//! A small driver of GICv2 and GICv3: one priority, one counter for each CPU and INTID. What the versions do
//! each in its own way is in [`v2`] and [`v3`].

mod v2;
mod v3;

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::cpu::{self, MAX_CPUS, instruction, mmio};
use crate::platform;
use crate::timer::{PHYSICAL_INTID, Timer, VIRTUAL_INTID};

/// Interrupts counted: SGIs, PPIs and the first SPIs.
pub(crate) const INTIDS: usize = 96;

// Distributor registers (IHI 0069 12.9, IHI 0048 4.3); the first 32 interrupts' are a CPU's own, with a GICv3
// in its SGI frame.
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

/// What of an acknowledged word is the INTID.
const INTID: u32 = 0x3ff;

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

/// Spins until `count(cpu, intid)` is not `seen` any more; answers how many instructions the loop took.
pub(crate) fn spin(cpu: usize, intid: u32, seen: u32) -> u64 {
    let counter = COUNTS[cpu][intid as usize].as_ptr();
    let mut turns = 0_u64;
    // SAFETY: reads a static's counter, as its `load` does; nothing else is touched.
    unsafe {
        asm!(
            "2: ldr {now:w}, [{counter}]",
            "add {turns}, {turns}, #1",
            "cmp {now:w}, {seen:w}",
            "b.eq 2b",
            counter = in(reg) counter,
            seen = in(reg) seen,
            now = out(reg) _,
            turns = inout(reg) turns,
            options(nostack, readonly),
        );
    }
    4 * turns
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
    let frame = if intid < 32 && !is_v2() {
        v3::sgi_frame(cpu::index())
    } else {
        platform::gicd()
    };
    frame + base + u64::from(intid * bits / 32) * 4
}

fn bit(intid: u32) -> u32 {
    1 << (intid % 32)
}

/// The machine has a GICv2.
pub(crate) fn is_v2() -> bool {
    platform::gicc().is_some()
}

pub(crate) use v3::{acknowledge_group0, end_group0, redistributor, send_group0};

/// Puts a private interrupt of this CPU into group 0 of a GICv3, and lets that group in; or back into group 1.
pub(crate) fn set_group0(intid: u32, on: bool) {
    let group1 = if on { !bit(intid) } else { !0 };
    mmio::write32(register(IGROUPR, intid, 1), group1);
    v3::enable_group0(on);
}

/// All interrupts in the group that is used: 1 on a GICv3, where they are IRQs then, 0 on a GICv2.
fn groups() -> u32 {
    if is_v2() { 0 } else { !0 }
}

/// Sets the distributor up: everything disabled.
pub(crate) fn init_distributor() {
    if is_v2() {
        v2::init_distributor();
    } else {
        v3::init_distributor();
    }
    for intid in (32..spis_end()).step_by(32) {
        mmio::write32(register(IGROUPR, intid, 1), groups());
        mmio::write32(register(ICENABLER, intid, 1), !0);
        mmio::write32(register(ICPENDR, intid, 1), !0);
    }
}

/// First INTID behind the SPIs the distributor has.
pub(crate) fn spis_end() -> u32 {
    let lines = mmio::read32(platform::gicd() + TYPER) & 0x1f;
    (32 * (lines + 1)).min(1020)
}

/// Sets this CPU's private interrupts and CPU interface up and lets interrupts in.
pub(crate) fn init_cpu() {
    if !is_v2() {
        v3::wake();
    }
    mmio::write32(register(IGROUPR, 0, 1), groups());
    mmio::write32(register(ICENABLER, 0, 1), !0);
    mmio::write32(register(ICPENDR, 0, 1), !0);
    if is_v2() {
        v2::init_cpu();
    } else {
        v3::init_cpu();
    }
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
    // GICD_CTLR.RWP, which a GICv2 does not have: the disable has reached the CPU interfaces.
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
    if is_v2() {
        v2::route(intid, mpidr);
    } else {
        v3::route(intid, mpidr);
    }
    cpu::barrier();
}

/// Where an SPI is routed to.
pub(crate) fn routed_to(intid: u32) -> u64 {
    if is_v2() {
        v2::routed_to(intid)
    } else {
        v3::routed_to(intid)
    }
}

/// Lowest priority that gets through to this CPU.
pub(crate) fn set_mask(priority: u8) {
    if is_v2() {
        v2::set_mask(priority);
    } else {
        v3::set_mask(priority);
    }
    cpu::barrier();
}

/// Sends an SGI to the CPU with this MPIDR.
pub(crate) fn send(mpidr: u64, sgi: u32) {
    instruction!("dsb sy");
    if is_v2() {
        v2::send(mpidr, sgi);
    } else {
        v3::send(mpidr, sgi);
    }
}

/// Sends an SGI to all CPUs but this one.
pub(crate) fn send_others(sgi: u32) {
    instruction!("dsb sy");
    if is_v2() {
        v2::send_others(sgi);
    } else {
        v3::send_others(sgi);
    }
}

/// The sender of the SGI that this CPU took last, on a GICv2.
pub(crate) fn last_sender() -> u32 {
    v2::last_sender(cpu::index())
}

/// The IRQ vector.
pub(crate) fn handle_interrupt() {
    let taken = if is_v2() {
        v2::acknowledge()
    } else {
        v3::acknowledge()
    };
    let intid = taken & INTID;
    let index = cpu::index();
    if intid as usize >= INTIDS {
        STRAY.fetch_add(1, Ordering::SeqCst);
        if intid < 1020 {
            end(taken);
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
    end(taken);
}

fn end(taken: u32) {
    if is_v2() {
        v2::end(taken);
    } else {
        v3::end(taken);
    }
}
