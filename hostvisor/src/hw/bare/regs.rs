//! System registers: counter, the hostvisor's own timer, the GIC CPU interface.

use core::arch::asm;

macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading this register has no effect on memory.
        unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

macro_rules! write {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: controls interrupts or timers of this CPU only; the program runs with DAIF masked.
        unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack)) };
    }};
}

fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack)) };
}

/// This CPU's index. Set by the entry stub.
#[inline]
#[must_use]
pub fn cpu_index() -> usize {
    read!("tpidr_el1") as usize % abi::MAX_CPUS
}

/// This CPU's affinity fields (MPIDR_EL1 bits 39:32 and 23:0).
#[must_use]
pub fn mpidr() -> u64 {
    read!("mpidr_el1") & 0xff_00ff_ffff
}

/// CNTPCT_EL0: the counter, in ticks.
#[inline]
#[must_use]
pub fn now() -> u64 {
    isb();
    read!("cntpct_el0")
}

/// CNTFRQ_EL0: ticks a second.
#[inline]
#[must_use]
pub fn frequency() -> u64 {
    read!("cntfrq_el0").max(1)
}

/// Arms this CPU's physical timer for CNTPCT value `deadline`; `u64::MAX` switches it off.
pub fn set_deadline(deadline: u64) {
    if deadline == u64::MAX {
        // CNTP_CTL_EL0.IMASK with ENABLE clear.
        write!("cntp_ctl_el0", 2);
    } else {
        write!("cntp_cval_el0", deadline);
        write!("cntp_ctl_el0", 1);
    }
    isb();
}

/// Puts this CPU's timers into a known state: physical off.
pub fn timer_init() {
    set_deadline(u64::MAX);
}

/// Sets this CPU's GIC CPU interface up: system registers, all priorities, group 1, EOI deactivates.
pub fn gic_cpu_init() {
    // ICC_SRE_EL1.SRE
    write!("s3_0_c12_c12_5", 1);
    isb();
    // ICC_PMR_EL1, ICC_BPR1_EL1, ICC_CTLR_EL1, ICC_IGRPEN1_EL1
    write!("s3_0_c4_c6_0", 0xff);
    write!("s3_0_c12_c12_3", 0);
    write!("s3_0_c12_c12_4", 0);
    write!("s3_0_c12_c12_7", 1);
    isb();
}

/// ICC_IAR1_EL1: acknowledges the highest pending interrupt; 1020–1023 mean none.
#[inline]
#[must_use]
pub fn acknowledge() -> u32 {
    let intid = read!("s3_0_c12_c12_0");
    // SAFETY: a barrier: the acknowledge is done before what follows (GIC architecture 4.5).
    unsafe { asm!("dsb sy", options(nostack)) };
    (intid & 0xff_ffff) as u32
}

/// ICC_EOIR1_EL1: priority drop and deactivation.
#[inline]
pub fn end_of_interrupt(intid: u32) {
    write!("s3_0_c12_c12_1", u64::from(intid));
    isb();
}

/// ICC_SGI1R_EL1: sends SGI `intid` to the CPU with affinity `mpidr`.
#[inline]
pub fn send_sgi(intid: u32, mpidr: u64) {
    let aff0 = mpidr & 0xff;
    let value = u64::from(intid & 0xf) << 24
        | 1 << (aff0 & 0xf)
        | (aff0 >> 4) << 44
        | (mpidr >> 8 & 0xff) << 16
        | (mpidr >> 16 & 0xff) << 32
        | (mpidr >> 32 & 0xff) << 48;
    // Stores before the SGI are seen by its receiver.
    publish();
    write!("s3_0_c12_c11_5", value);
    isb();
}

/// Stores before it are seen by every CPU before anything behind it happens.
#[inline]
pub fn publish() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack)) };
}

/// What a CPU does between two looks at what another is to change. ISB holds a core's pipeline back for as long as is
/// wanted; YIELD tells a multithreaded core, and an emulator, that another is to go on.
#[inline]
pub fn relax() {
    // SAFETY: hints.
    unsafe { asm!("yield", "isb", options(nomem, nostack, preserves_flags)) };
}

/// Waits for an interrupt; returns at once if one is pending, masked or not.
pub fn wait_for_interrupt() {
    // SAFETY: waits, and touches nothing.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) };
}
