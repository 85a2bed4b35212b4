//! Hypercalls and SMCs, proper and improper.

use abi::{Error, HostCall, psci};
use core::arch::global_asm;

global_asm!(
    include_str!("asm/entry.s"),
    table = sym crate::entry::TABLE,
    stacks = sym crate::entry::STACKS,
    stack_size = const crate::entry::STACK,
    first = sym crate::entry::first,
    other = sym crate::entry::other,
    handler = sym crate::exception::handle,
);

/// x0–x30.
pub(crate) type Registers = [u64; 31];

unsafe extern "C" {
    fn raw_call(registers: *mut Registers, smc: u64);
}

/// HVC #0 with all registers as given; all of them afterwards.
pub(crate) fn hvc_all(registers: &mut Registers) {
    // SAFETY: the call keeps the callee-saved registers by itself. What the corevisor does to RAM concerns
    // frames outside this program's image.
    unsafe { raw_call(registers, 0) };
}

/// HVC with function number `x0`, known or not; x0–x4 afterwards.
pub(crate) fn hvc(x0: u64, args: &[u64]) -> [u64; 5] {
    let mut registers = [0; 31];
    registers[0] = x0;
    registers[1..=args.len()].copy_from_slice(args);
    hvc_all(&mut registers);
    [0, 1, 2, 3, 4].map(|n| registers[n])
}

/// A hypercall: x1 of the answer.
pub(crate) fn host(call: HostCall, args: &[u64]) -> Result<u64, Error> {
    let answer = hvc(call as u64, args);
    Error::check(answer[0]).map(|()| answer[1])
}

/// SMC; x0 of the answer.
pub(crate) fn smc(function: u64, args: &[u64]) -> i64 {
    let mut registers = [0; 31];
    registers[0] = function;
    registers[1..=args.len()].copy_from_slice(args);
    // SAFETY: as for `hvc_all`. CPU_ON enters `other_start`, which has a stack of its own.
    unsafe { raw_call(&mut registers, 1) };
    registers[0].cast_signed()
}

/// A fact about the core.
pub(crate) fn info(which: abi::hypercall::CoreInfo) -> u64 {
    host(HostCall::CoreInfo, &[which as u64]).unwrap_or(0)
}

/// The end.
pub(crate) fn system_off() -> ! {
    smc(u64::from(psci::SYSTEM_OFF), &[]);
    loop {
        crate::cpu::wait();
    }
}
