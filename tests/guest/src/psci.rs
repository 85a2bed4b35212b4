//! PSCI 1.1 (DEN0022F) by HVC: function ids and error codes as the document lists them.

use crate::console::println;
use crate::cpu;

pub(crate) const VERSION: u64 = 0x8400_0000;
pub(crate) const CPU_OFF: u64 = 0x8400_0002;
pub(crate) const CPU_ON_32: u64 = 0x8400_0003;
pub(crate) const CPU_ON: u64 = 0xc400_0003;
pub(crate) const AFFINITY_INFO_32: u64 = 0x8400_0004;
pub(crate) const AFFINITY_INFO: u64 = 0xc400_0004;
pub(crate) const MIGRATE_INFO_TYPE: u64 = 0x8400_0006;
pub(crate) const SYSTEM_OFF: u64 = 0x8400_0008;
pub(crate) const SYSTEM_RESET: u64 = 0x8400_0009;
pub(crate) const FEATURES: u64 = 0x8400_000a;

pub(crate) const SUCCESS: i32 = 0;
pub(crate) const NOT_SUPPORTED: i32 = -1;
pub(crate) const INVALID_PARAMETERS: i32 = -2;
pub(crate) const ALREADY_ON: i32 = -4;

pub(crate) const AFFINITY_ON: i32 = 0;
pub(crate) const AFFINITY_OFF: i32 = 1;

/// Calls a function and reads its answer as the signed 32-bit number PSCI defines.
pub(crate) fn call(function: u64, a: u64, b: u64, c: u64) -> i32 {
    cpu::hvc(function, a, b, c) as i32
}

/// Powers `mpidr` on at `entry` with `context` in x0.
pub(crate) fn cpu_on(mpidr: u64, entry: u64, context: u64) -> i32 {
    call(CPU_ON, mpidr, entry, context)
}

/// Whether `mpidr` is on.
pub(crate) fn affinity_info(mpidr: u64) -> i32 {
    call(AFFINITY_INFO, mpidr, 0, 0)
}

/// Powers this CPU off.
pub(crate) fn cpu_off() -> ! {
    cpu::mask();
    let answer = call(CPU_OFF, 0, 0, 0);
    println!("guest: CPU_OFF came back: {answer}");
    loop {
        cpu::instruction!("wfi");
    }
}

/// Powers the machine off.
pub(crate) fn system_off() -> ! {
    let answer = call(SYSTEM_OFF, 0, 0, 0);
    println!("guest: SYSTEM_OFF came back: {answer}");
    loop {
        cpu::instruction!("wfi");
    }
}
