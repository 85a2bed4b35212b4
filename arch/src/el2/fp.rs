//! FP/SIMD registers. The hypervisor is built soft-float, so these instructions exist only here.

use crate::context::FpRegs;
use core::arch::asm;

/// Stores v0–v31, FPSR and FPCR. CPTR_EL2 must not trap them.
pub(super) fn save(regs: &mut FpRegs) {
    // SAFETY: writes exactly the 512 + 16 bytes of `regs`, which is borrowed exclusively.
    unsafe {
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "isb",
            "stp q0, q1, [{p}, #0]",
            "stp q2, q3, [{p}, #32]",
            "stp q4, q5, [{p}, #64]",
            "stp q6, q7, [{p}, #96]",
            "stp q8, q9, [{p}, #128]",
            "stp q10, q11, [{p}, #160]",
            "stp q12, q13, [{p}, #192]",
            "stp q14, q15, [{p}, #224]",
            "stp q16, q17, [{p}, #256]",
            "stp q18, q19, [{p}, #288]",
            "stp q20, q21, [{p}, #320]",
            "stp q22, q23, [{p}, #352]",
            "stp q24, q25, [{p}, #384]",
            "stp q26, q27, [{p}, #416]",
            "stp q28, q29, [{p}, #448]",
            "stp q30, q31, [{p}, #480]",
            "mrs {s}, fpsr",
            "mrs {c}, fpcr",
            ".arch_extension nosimd",
            ".arch_extension nofp",
            p = in(reg) regs.v.as_mut_ptr(),
            s = out(reg) regs.fpsr,
            c = out(reg) regs.fpcr,
            options(nostack, preserves_flags),
        );
    }
}

/// Loads v0–v31, FPSR and FPCR. CPTR_EL2 must not trap them.
pub(super) fn load(regs: &FpRegs) {
    // SAFETY: reads exactly the 512 bytes of `regs.v`; code built soft-float keeps nothing in the
    // registers written.
    unsafe {
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "isb",
            "ldp q0, q1, [{p}, #0]",
            "ldp q2, q3, [{p}, #32]",
            "ldp q4, q5, [{p}, #64]",
            "ldp q6, q7, [{p}, #96]",
            "ldp q8, q9, [{p}, #128]",
            "ldp q10, q11, [{p}, #160]",
            "ldp q12, q13, [{p}, #192]",
            "ldp q14, q15, [{p}, #224]",
            "ldp q16, q17, [{p}, #256]",
            "ldp q18, q19, [{p}, #288]",
            "ldp q20, q21, [{p}, #320]",
            "ldp q22, q23, [{p}, #352]",
            "ldp q24, q25, [{p}, #384]",
            "ldp q26, q27, [{p}, #416]",
            "ldp q28, q29, [{p}, #448]",
            "ldp q30, q31, [{p}, #480]",
            "msr fpsr, {s}",
            "msr fpcr, {c}",
            ".arch_extension nosimd",
            ".arch_extension nofp",
            p = in(reg) regs.v.as_ptr(),
            s = in(reg) regs.fpsr,
            c = in(reg) regs.fpcr,
            options(nostack, preserves_flags),
        );
    }
}
