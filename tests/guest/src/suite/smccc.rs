//! Hypercalls and SMCs other than PSCI (SMC Calling Convention, DEN0028).

use crate::cpu;
use crate::exception::catching;
use crate::psci::NOT_SUPPORTED;
use crate::verdict::{Verdict, check, check_eq, fail};

unsafe extern "C" {
    fn gpr_hvc(seed: u64, function: u64) -> u64;
}

/// Function numbers nobody has defined: each range's ends, and numbers with stray upper bits.
const UNKNOWN: &[u64] = &[
    0x8000_7fff,
    0x8000_ffff,
    0xc000_0000,
    0x8100_0000,
    0x8200_0000,
    0x8300_0000,
    0x8400_001e,
    0x8400_ffff,
    0xc400_0000,
    0xc400_fff0,
    0x8500_0000,
    0xc500_0020,
    0x8600_fffe,
    0xc600_fffe,
    0xc600_2000,
    0xb000_0000,
    0xbf00_ff00,
    0xffff_ffff,
    0x0000_0001,
    0x0400_0000,
    0x7fff_ffff,
    0x1_8600_fffe,
    0xffff_ffff_ffff_ffff,
];

/// Unknown functions answer NOT_SUPPORTED and change no register but x0–x3.
pub(crate) fn unknown() -> Verdict {
    for &function in UNKNOWN {
        let answer = cpu::hvc(function, 0, 0, 0);
        check_eq!(answer as i32, NOT_SUPPORTED, "HVC {function:#x}");
        // SAFETY: the assembly restores the callee-saved registers.
        let changed = unsafe { gpr_hvc(0x0123_4567_89ab_cdef ^ function, function) };
        check_eq!(changed, 0, "registers changed by HVC {function:#x}");
    }
    // The immediate of HVC is ignored or refused, never fatal.
    catching(|| {
        // SAFETY: as `cpu::hvc`, with a function that does not exist.
        unsafe {
            core::arch::asm!("hvc #1", "hvc #0xffff", inout("x0") 0xc600_fffe_u64 => _, out("x1") _, out("x2") _, out("x3") _)
        };
    });
    Ok(())
}

/// SMCCC 1.1 discovery.
pub(crate) fn version() -> Verdict {
    let version = cpu::hvc(0x8000_0000, 0, 0, 0) as i32;
    check!(version >= 0x1_0001, "SMCCC_VERSION is {version:#x}");
    let features = cpu::hvc(0x8400_000a, 0x8000_0000, 0, 0) as i32;
    check!(features >= 0, "PSCI FEATURES(SMCCC_VERSION) is {features}");
    for function in [0x8000_0000, 0x8000_0001] {
        let answer = cpu::hvc(0x8000_0001, function, 0, 0) as i32;
        check!(answer >= 0, "ARCH_FEATURES({function:#x}) is {answer}");
    }
    let answer = cpu::hvc(0x8000_0001, 0x8000_7abc, 0, 0) as i32;
    check_eq!(
        answer,
        NOT_SUPPORTED,
        "ARCH_FEATURES of an unknown function"
    );
    Ok(())
}

/// The hostvisor's hypercalls do not exist for a guest.
pub(crate) fn host_calls() -> Verdict {
    for offset in 0..0x40u64 {
        let answer = cpu::hvc(0xc600_1000 + offset, 0, 0, 0);
        check_eq!(
            answer as i32,
            NOT_SUPPORTED,
            "HVC {:#x}",
            0xc600_1000 + offset
        );
    }
    Ok(())
}

/// SMC is undefined or not supported; either way the guest goes on.
pub(crate) fn smc() -> Verdict {
    for function in [
        0x8400_0000,
        0x8400_0008,
        0x8400_0009,
        0xc400_0003,
        0x8000_0000,
        0xc600_1000,
        0xdead_beef,
    ] {
        let mut answer = 0;
        match catching(|| answer = cpu::smc(function)) {
            Some(taken) if !taken.is_undef() => {
                fail!("SMC {function:#x} took ESR {:#x}", taken.esr)
            }
            Some(_) => check_eq!(answer, function, "x0 after an undefined SMC"),
            None => check_eq!(answer as i32, NOT_SUPPORTED, "SMC {function:#x}"),
        }
    }
    Ok(())
}
