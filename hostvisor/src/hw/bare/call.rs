//! Hypercalls and SMCs.

use crate::hw::Answer;
use abi::{Error, HostCall};
use core::arch::asm;

/// Calls the corevisor. The answer's values are x1–x4.
#[inline]
pub fn hypercall(call: HostCall, args: [u64; 4]) -> Result<Answer, Error> {
    let x0: u64;
    let [a1, a2, a3, a4] = args;
    let (x1, x2, x3, x4): (u64, u64, u64, u64);
    // SAFETY: an HVC has no effect on this program but through x0–x4 and through RAM frames that the
    // arguments name, which lie in the frame pool (no Rust object lives there). All other registers are
    // kept (abi::hypercall).
    unsafe {
        asm!(
            "hvc #0",
            inlateout("x0") call as u64 => x0,
            inlateout("x1") a1 => x1,
            inlateout("x2") a2 => x2,
            inlateout("x3") a3 => x3,
            inlateout("x4") a4 => x4,
            options(nostack),
        );
    }
    Error::check(x0).map(|()| Answer {
        values: [x1, x2, x3, x4],
    })
}

/// Calls PSCI by SMC, which the corevisor traps. Answers x0.
pub fn smc(function: u32, args: [u64; 3]) -> i64 {
    let x0: u64;
    // SAFETY: the corevisor answers with x0–x3 and keeps the rest (SMCCC 1.1 clobbers x0–x17 at most,
    // which are given up here). A CPU_ON enters `secondary_start`, which minds its own stack.
    unsafe {
        asm!(
            "smc #0",
            inlateout("x0") u64::from(function) => x0,
            inlateout("x1") args[0] => _,
            inlateout("x2") args[1] => _,
            inlateout("x3") args[2] => _,
            lateout("x4") _, lateout("x5") _, lateout("x6") _, lateout("x7") _,
            lateout("x8") _, lateout("x9") _, lateout("x10") _, lateout("x11") _,
            lateout("x12") _, lateout("x13") _, lateout("x14") _, lateout("x15") _,
            lateout("x16") _, lateout("x17") _,
            options(nostack),
        );
    }
    x0.cast_signed()
}
