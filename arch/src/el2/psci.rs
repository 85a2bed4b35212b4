//! PSCI calls to the firmware, by SMC (DEN0022). From EL2 an HVC would come back to EL2, so SMC is
//! the only conduit there is.

use abi::psci;
use core::arch::asm;

/// Makes an SMC by the SMC Calling Convention 1.0 (DEN0028): arguments in x0–x3, x4–x17 not kept.
/// Returns x0–x3.
///
/// # Safety
/// The call must not make the firmware change memory or state that Rust code relies on.
#[must_use]
pub unsafe fn smc(function: u64, arg1: u64, arg2: u64, arg3: u64) -> [u64; 4] {
    let (r0, r1, r2, r3);
    // SAFETY: registers as the calling convention has them; the rest is the caller's promise.
    unsafe {
        asm!(
            "smc #0",
            inout("x0") function => r0,
            inout("x1") arg1 => r1,
            inout("x2") arg2 => r2,
            inout("x3") arg3 => r3,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
            out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
            out("x16") _, out("x17") _,
            options(nostack),
        );
    }
    [r0, r1, r2, r3]
}

fn call(function: u32, arg1: u64, arg2: u64, arg3: u64) -> i64 {
    // SAFETY: only functions of this file come here; none touches memory of this program. CPU_ON
    // starts another CPU at an address the caller of `cpu_on` vouches for.
    let [x0, ..] = unsafe { smc(u64::from(function), arg1, arg2, arg3) };
    x0.cast_signed()
}

/// PSCI_VERSION: major in bits 31:16, minor in bits 15:0, or a negative error.
#[must_use]
pub fn version() -> i64 {
    // A 32-bit result: the upper half of x0 is not defined for SMC32.
    i64::from(call(psci::VERSION, 0, 0, 0) as i32)
}

/// CPU_ON: starts the CPU `mpidr` (affinity fields only) at physical `entry`, at EL2 with MMU off and
/// `context` in x0.
///
/// # Errors
/// The PSCI error code.
///
/// # Safety
/// `entry` is code made for that state, and `context` what it expects; both stay valid.
pub unsafe fn cpu_on(mpidr: u64, entry: u64, context: u64) -> Result<(), i64> {
    match i64::from(call(psci::CPU_ON_64, mpidr, entry, context) as i32) {
        psci::SUCCESS => Ok(()),
        error => Err(error),
    }
}

/// CPU_OFF: switches this CPU off. Comes back only if the firmware refuses.
pub fn cpu_off() -> i64 {
    i64::from(call(psci::CPU_OFF, 0, 0, 0) as i32)
}

/// SYSTEM_OFF. Parks this CPU if the firmware does not obey.
pub fn system_off() -> ! {
    call(psci::SYSTEM_OFF, 0, 0, 0);
    park()
}

/// SYSTEM_RESET. Parks this CPU if the firmware does not obey.
pub fn system_reset() -> ! {
    call(psci::SYSTEM_RESET, 0, 0, 0);
    park()
}

/// Waits for ever.
pub fn park() -> ! {
    loop {
        // SAFETY: waiting has no effect on memory.
        unsafe { asm!("wfe", options(nomem, nostack, preserves_flags)) };
    }
}
