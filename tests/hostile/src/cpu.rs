//! This CPU: number, counter, timer, maintenance.

use core::arch::asm;

/// Reads a system register by name.
macro_rules! mrs {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading a register of this exception level.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack)) };
        value
    }};
}

/// Writes a system register by name.
macro_rules! msr {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: registers that this program owns and that its compiled code does not depend on.
        unsafe { core::arch::asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) value, options(nostack)) };
    }};
}
pub(crate) use {mrs, msr};

/// This CPU's number.
pub(crate) fn index() -> usize {
    mrs!("tpidr_el1") as usize % abi::MAX_CPUS
}

/// The exception level it runs at.
pub(crate) fn level() -> u64 {
    mrs!("currentel") >> 2 & 3
}

/// The physical counter.
pub(crate) fn now() -> u64 {
    mrs!("cntpct_el0")
}

/// How long anything that should happen may take, in milliseconds: far more than it needs, since a loaded
/// machine's emulated CPUs stand still for seconds. Only what never happens takes this long.
pub(crate) const PATIENCE: u64 = 20_000;

/// Ticks of the counter in `milliseconds`.
pub(crate) fn ticks(milliseconds: u64) -> u64 {
    mrs!("cntfrq_el0") * milliseconds / 1000
}

/// An interrupt ends what runs on this CPU in `milliseconds`.
pub(crate) fn arm_timer(milliseconds: u64) {
    msr!("cntp_cval_el0", now() + ticks(milliseconds));
    msr!("cntp_ctl_el0", 1);
}

/// The timer is off.
pub(crate) fn stop_timer() {
    msr!("cntp_ctl_el0", 2);
}

/// Waits for an interrupt.
pub(crate) fn wait() {
    // SAFETY: waits.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) };
}

/// Everything before is done before everything after.
pub(crate) fn barrier() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", "isb", options(nostack)) };
}

/// Drops this program's own translations.
pub(crate) fn flush_own_tlb() {
    // SAFETY: stage 1 never changes but for TTBR1; translations come back.
    unsafe {
        asm!(
            "dsb sy",
            "tlbi vmalle1is",
            "dsb sy",
            "isb",
            options(nostack)
        )
    };
}

/// Makes what was written at `start` visible to instruction fetch and to a world with caches off.
pub(crate) fn sync_code(start: u64, bytes: u64) {
    let mut at = start & !63;
    while at < start + bytes {
        // SAFETY: cleans memory that this program has just written.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack)) };
        at += 64;
    }
    // SAFETY: barriers and instruction cache invalidation.
    unsafe { asm!("dsb sy", "ic iallu", "dsb sy", "isb", options(nostack)) };
}
