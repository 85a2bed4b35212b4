//! System registers, barriers and hypercalls of the CPU we run on.

use core::arch::asm;

/// Most CPUs the guest handles.
pub(crate) const MAX_CPUS: usize = 16;

/// Reads a system register, named or by its generic encoding.
macro_rules! read_reg {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a system register changes nothing the compiler knows of; if the register
        // does not exist the exception handler skips the instruction, and the value is 0.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), inout(reg) 0u64 => value) };
        value
    }};
}
pub(crate) use read_reg;

/// Writes a system register.
macro_rules! write_reg {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: only interrupt, timer and scratch registers are written this way, none of which
        // changes what the compiler assumes; an unknown one is skipped by the exception handler.
        unsafe { core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value) };
    }};
}
pub(crate) use write_reg;

/// Runs one instruction without operands.
macro_rules! instruction {
    ($text:literal) => {{
        // SAFETY: barriers, hints, and instructions whose exception the handler skips.
        unsafe { core::arch::asm!($text) };
    }};
}
pub(crate) use instruction;

/// The index this CPU was started with.
pub(crate) fn index() -> usize {
    (read_reg!("tpidr_el1") as usize).min(MAX_CPUS - 1)
}

/// Affinity fields of this CPU's MPIDR_EL1.
pub(crate) fn mpidr() -> u64 {
    read_reg!("mpidr_el1") & 0xff_00ff_ffff
}

/// Lets interrupts in.
pub(crate) fn unmask() {
    instruction!("msr daifclr, #0xf");
}

/// Keeps interrupts out.
pub(crate) fn mask() {
    instruction!("msr daifset, #0xf");
}

/// Keeps FIQs alone out, or lets them in.
pub(crate) fn mask_fiq(on: bool) {
    if on {
        instruction!("msr daifset, #1");
    } else {
        instruction!("msr daifclr, #1");
    }
}

/// ISR_EL1.F: an FIQ is pending.
pub(crate) fn fiq_pending() -> bool {
    read_reg!("isr_el1") >> 6 & 1 == 1
}

/// Orders everything before it.
pub(crate) fn barrier() {
    instruction!("dsb sy\n isb");
}

/// Sleeps until `woken` is true; interrupts that come in between are handled. The interrupt that
/// makes `woken` true cannot slip in between check and WFI, because it is masked there and WFI ends
/// on a masked one too (Arm ARM D1.6.2).
pub(crate) fn sleep_until(woken: impl Fn() -> bool) {
    mask();
    while !woken() {
        instruction!("dsb sy\n wfi");
        unmask();
        instruction!("isb");
        mask();
    }
    unmask();
}

/// `HVC #0` by the SMC Calling Convention (DEN0028): x0 = function, x1–x3 = arguments.
pub(crate) fn hvc(function: u64, a: u64, b: u64, c: u64) -> u64 {
    let result: u64;
    // SAFETY: the convention lets x0-x17 change; memory changes only where the callee is told to
    // start another CPU, on that CPU's own stack.
    unsafe {
        asm!("hvc #0", inout("x0") function => result, inout("x1") a => _, inout("x2") b => _,
            inout("x3") c => _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _,
            out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
            out("x15") _, out("x16") _, out("x17") _);
    }
    result
}

/// `SMC #0` with x0 = function; x0 afterwards, which is `function` if the instruction was skipped.
pub(crate) fn smc(function: u64) -> u64 {
    let result: u64;
    // SAFETY: as `hvc`.
    unsafe {
        asm!("smc #0", inout("x0") function => result, out("x1") _, out("x2") _, out("x3") _,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
            out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
            out("x16") _, out("x17") _);
    }
    result
}

/// Device memory access of exactly one load or store, of a form that gives a syndrome.
pub(crate) mod mmio {
    use core::arch::asm;

    /// 32-bit load.
    pub(crate) fn read32(address: u64) -> u32 {
        let value: u32;
        // SAFETY: device registers are not memory the compiler knows of; an access that aborts is
        // skipped by the exception handler.
        unsafe { asm!("ldr {0:w}, [{1}]", inout(reg) 0u32 => value, in(reg) address) };
        value
    }

    /// 8-bit load.
    pub(crate) fn read8(address: u64) -> u8 {
        let value: u32;
        // SAFETY: as `read32`.
        unsafe { asm!("ldrb {0:w}, [{1}]", inout(reg) 0u32 => value, in(reg) address) };
        value as u8
    }

    /// 64-bit load.
    pub(crate) fn read64(address: u64) -> u64 {
        let value: u64;
        // SAFETY: as `read32`.
        unsafe { asm!("ldr {0}, [{1}]", inout(reg) 0u64 => value, in(reg) address) };
        value
    }

    /// 32-bit store.
    pub(crate) fn write32(address: u64, value: u32) {
        // SAFETY: as `read32`; callers pass device registers only.
        unsafe { asm!("str {0:w}, [{1}]", in(reg) value, in(reg) address) };
    }

    /// 8-bit store.
    pub(crate) fn write8(address: u64, value: u8) {
        // SAFETY: as `write32`.
        unsafe { asm!("strb {0:w}, [{1}]", in(reg) u32::from(value), in(reg) address) };
    }

    /// 64-bit store.
    pub(crate) fn write64(address: u64, value: u64) {
        // SAFETY: as `write32`.
        unsafe { asm!("str {0}, [{1}]", in(reg) value, in(reg) address) };
    }
}
