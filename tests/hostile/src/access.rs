//! Reaching for memory, whoever owns it.
//!
//! Safe functions by this rule: they refuse addresses inside this program's own image, so that no Rust
//! object is ever behind them; everything else is RAM without objects, devices, or somebody else's.

use crate::exception::{Fault, attempt};
use core::arch::asm;

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
}

/// The program's own range.
pub(crate) fn image() -> (u64, u64) {
    (
        (&raw const __image_start).addr() as u64,
        (&raw const __image_end).addr() as u64,
    )
}

fn check(at: u64) {
    let (start, end) = image();
    assert!(at < start || at >= end, "{at:#x} is this program's own");
}

/// Reads the word at `at`.
pub(crate) fn read(at: u64) -> Result<u64, Fault> {
    let mut value = 0;
    // SAFETY: a read; a fault skips it.
    let fault = attempt(|| unsafe {
        asm!("ldr {v}, [{a}]", v = inout(reg) value, a = in(reg) at, options(nostack));
    });
    fault.map_or(Ok(value), Err)
}

/// Reads the 32-bit register at `at`.
pub(crate) fn read32(at: u64) -> Result<u32, Fault> {
    let mut value = 0u32;
    // SAFETY: a read; a fault skips it.
    let fault = attempt(|| unsafe {
        asm!("ldr {v:w}, [{a}]", v = inout(reg) value, a = in(reg) at, options(nostack));
    });
    fault.map_or(Ok(value), Err)
}

/// Writes the word at `at`.
pub(crate) fn write(at: u64, value: u64) -> Result<(), Fault> {
    check(at);
    // SAFETY: no object of this program is there; a fault skips it.
    let fault = attempt(|| unsafe {
        asm!("str {v}, [{a}]", "dsb sy", v = in(reg) value, a = in(reg) at, options(nostack));
    });
    fault.map_or(Ok(()), Err)
}

/// Writes the 32-bit register at `at`.
pub(crate) fn write32(at: u64, value: u32) -> Result<(), Fault> {
    check(at);
    // SAFETY: as for `write`.
    let fault = attempt(|| unsafe {
        asm!("str {v:w}, [{a}]", "dsb sy", v = in(reg) value, a = in(reg) at, options(nostack));
    });
    fault.map_or(Ok(()), Err)
}

/// Calls the code at `at`, which may change x0-x18. None if it came back without an exception.
pub(crate) fn execute(at: u64) -> Option<Fault> {
    check(at);
    // SAFETY: code without a frame of its own, or none at all: then the fetch faults and returns.
    attempt(|| unsafe {
        asm!("blr {a}", a = in(reg) at, clobber_abi("C"), options(nostack));
    })
}

/// Other ways to touch a word, most of which give no syndrome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touch {
    /// LDP.
    Pair,
    /// LDR with write-back.
    WriteBack,
    /// LDXR.
    Exclusive,
    /// STP.
    StorePair,
    /// DC ZVA.
    Zero,
}

impl Touch {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::Pair,
        Self::WriteBack,
        Self::Exclusive,
        Self::StorePair,
        Self::Zero,
    ];
}

/// Touches `at`; the fault, if any.
pub(crate) fn touch(at: u64, how: Touch) -> Option<Fault> {
    check(at);
    macro_rules! instruction {
        ($($text:literal),*) => {
            // SAFETY: no object of this program is there; a fault skips the instruction.
            attempt(|| unsafe {
                asm!($($text,)* a = inout(reg) at => _, out("x16") _, out("x17") _, options(nostack));
            })
        };
    }
    match how {
        Touch::Pair => instruction!("ldp x16, x17, [{a}]"),
        Touch::WriteBack => instruction!("ldr x16, [{a}], #8"),
        Touch::Exclusive => instruction!("ldxr x16, [{a}]", "clrex"),
        Touch::StorePair => instruction!("stp xzr, xzr, [{a}]"),
        Touch::Zero => instruction!("dc zva, {a}"),
    }
}

/// Reads RAM that is this program's to read.
pub(crate) fn word(at: u64) -> u64 {
    read(at).unwrap_or_else(|fault| panic!("own RAM at {at:#x}: {fault:x?}"))
}

/// Writes RAM that is this program's to write.
pub(crate) fn set_word(at: u64, value: u64) {
    write(at, value).unwrap_or_else(|fault| panic!("own RAM at {at:#x}: {fault:x?}"));
}

/// Fills `bytes` of own RAM at `at` with `value`.
pub(crate) fn fill(at: u64, bytes: u64, value: u64) {
    check(at);
    check(at + bytes - 1);
    for word in (at..at + bytes).step_by(8) {
        // SAFETY: RAM outside the image; the caller's frames are mapped, else the run ends.
        unsafe { (word as *mut u64).write_volatile(value) };
    }
}

/// Copies `from` to own RAM at `at`.
pub(crate) fn copy_to(at: u64, from: &[u8]) {
    check(at);
    check(at + from.len() as u64);
    // SAFETY: as for `fill`; source and goal do not overlap, as one is image and the other is not.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), at as *mut u8, from.len()) };
}
