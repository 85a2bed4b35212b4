//! The generic timer: time, waiting, and the two timers' interrupts.

use crate::cpu::{instruction, read_reg, write_reg};

/// INTID of the virtual timer.
pub(crate) const VIRTUAL_INTID: u32 = 27;
/// INTID of the physical timer.
pub(crate) const PHYSICAL_INTID: u32 = 30;

/// CNTFRQ_EL0: ticks a second.
pub(crate) fn frequency() -> u64 {
    read_reg!("cntfrq_el0").max(1)
}

/// CNTVCT_EL0, in program order.
pub(crate) fn now() -> u64 {
    instruction!("isb");
    read_reg!("cntvct_el0")
}

/// Ticks in `ms` milliseconds.
pub(crate) fn ticks(ms: u64) -> u64 {
    frequency() * ms / 1000
}

/// Microseconds in `ticks` ticks.
pub(crate) fn micros(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000 / u128::from(frequency())) as u64
}

/// Waits by looking until `condition` holds; false if it did not within `ms` milliseconds.
pub(crate) fn wait_for(ms: u64, condition: impl Fn() -> bool) -> bool {
    let end = now() + ticks(ms);
    while !condition() {
        if now() > end {
            return condition();
        }
        instruction!("yield");
    }
    true
}

/// Lets time pass.
pub(crate) fn spin(ms: u64) {
    wait_for(ms, || false);
}

/// One of the two timers of this CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    Virtual,
    Physical,
}

impl Timer {
    /// The INTID its output is wired to.
    pub(crate) fn intid(self) -> u32 {
        match self {
            Self::Virtual => VIRTUAL_INTID,
            Self::Physical => PHYSICAL_INTID,
        }
    }

    /// The counter it compares with.
    pub(crate) fn count(self) -> u64 {
        instruction!("isb");
        match self {
            Self::Virtual => read_reg!("cntvct_el0"),
            Self::Physical => read_reg!("cntpct_el0"),
        }
    }

    /// Fires when the counter reaches `deadline`.
    pub(crate) fn arm(self, deadline: u64) {
        match self {
            Self::Virtual => write_reg!("cntv_cval_el0", deadline),
            Self::Physical => write_reg!("cntp_cval_el0", deadline),
        }
        self.control(1);
    }

    /// Writes the control register: ENABLE bit 0, IMASK bit 1.
    pub(crate) fn control(self, value: u64) {
        match self {
            Self::Virtual => write_reg!("cntv_ctl_el0", value),
            Self::Physical => write_reg!("cntp_ctl_el0", value),
        }
        instruction!("isb");
    }

    /// The control register: ISTATUS is bit 2.
    pub(crate) fn status(self) -> u64 {
        instruction!("isb");
        match self {
            Self::Virtual => read_reg!("cntv_ctl_el0"),
            Self::Physical => read_reg!("cntp_ctl_el0"),
        }
    }

    /// TVAL: ticks until the deadline, as signed 32 bits.
    pub(crate) fn remaining(self) -> i32 {
        instruction!("isb");
        match self {
            Self::Virtual => read_reg!("cntv_tval_el0") as i32,
            Self::Physical => read_reg!("cntp_tval_el0") as i32,
        }
    }

    /// Fires in `ticks` ticks, by way of TVAL.
    pub(crate) fn arm_in(self, ticks: i32) {
        match self {
            Self::Virtual => write_reg!("cntv_tval_el0", ticks as u32 as u64),
            Self::Physical => write_reg!("cntp_tval_el0", ticks as u32 as u64),
        }
        self.control(1);
    }
}
