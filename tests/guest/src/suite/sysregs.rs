//! System registers: the ID space, and everything a guest should not find.

use core::cell::UnsafeCell;

use crate::console::println;
use crate::cpu::{barrier, read_reg, write_reg};
use crate::exception::{Taken, catching};
use crate::runner::on_bare_machine;
use crate::verdict::{Verdict, check, fail};

const BATCH: usize = 8;

#[repr(C, align(4096))]
struct Code(UnsafeCell<[u32; BATCH + 1]>);
// SAFETY: used by the boot CPU only.
unsafe impl Sync for Code {}
/// Instructions made at run time.
static CODE: Code = Code(UnsafeCell::new([0; BATCH + 1]));

/// `MRS x0, S<op0>_<op1>_C<n>_C<m>_<op2>` (Arm ARM C6.2), or MSR from x0.
fn encode(write: bool, op0: u32, op1: u32, n: u32, m: u32, op2: u32) -> u32 {
    let base = if write { 0xd510_0000 } else { 0xd530_0000 };
    base | (op0 - 2) << 19 | op1 << 16 | n << 12 | m << 8 | op2 << 5
}

/// Runs up to eight single instructions that use x0 only, skipping those that do not exist.
fn run(code: &[u32]) -> Option<Taken> {
    const RET: u32 = 0xd65f_03c0;
    let target = CODE.0.get().cast::<u32>();
    // SAFETY: the buffer is ours, executable and long enough; the code ends in RET, and touches x0
    // only.
    unsafe {
        for (i, &word) in code.iter().take(BATCH).chain([&RET]).enumerate() {
            target.add(i).write_volatile(word);
        }
        core::arch::asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) target);
        catching(|| {
            core::arch::asm!("blr {}", in(reg) target, inout("x0") 0u64 => _, out("x30") _);
        })
    }
}

/// Every register of the ID space (op0 3, op1 0, CRn 0, CRm 1–7) can be read: those that are not
/// allocated read as zero (Arm ARM D23.3.1).
pub(crate) fn id_registers() -> Verdict {
    for m in 1..8 {
        for op2 in 0..8 {
            if let Some(t) = run(&[encode(false, 3, 0, 0, m, op2)]) {
                fail!("reading S3_0_C0_C{m}_{op2} took ESR {:#x}", t.esr);
            }
        }
    }
    check!(read_reg!("midr_el1") != 0, "MIDR_EL1 is 0");
    Ok(())
}

/// Nothing is shown that a guest may not use.
pub(crate) fn id_features() -> Verdict {
    let hidden: &[(&str, u64, u32)] = &[
        ("EL2", read_reg!("id_aa64pfr0_el1"), 8),
        ("SVE", read_reg!("id_aa64pfr0_el1"), 32),
        ("MPAM", read_reg!("id_aa64pfr0_el1"), 40),
        ("AMU", read_reg!("id_aa64pfr0_el1"), 44),
        ("MTE", read_reg!("id_aa64pfr1_el1"), 8),
        ("SME", read_reg!("id_aa64pfr1_el1"), 24),
        ("trace", read_reg!("id_aa64dfr0_el1"), 4),
        ("SPE", read_reg!("id_aa64dfr0_el1"), 32),
        ("APA", read_reg!("id_aa64isar1_el1"), 4),
        ("API", read_reg!("id_aa64isar1_el1"), 8),
        ("GPA", read_reg!("id_aa64isar1_el1"), 24),
        ("GPI", read_reg!("id_aa64isar1_el1"), 28),
        ("APA3", read_reg!("s3_0_c0_c6_2"), 12),
        ("GPA3", read_reg!("s3_0_c0_c6_2"), 8),
        ("ZFR0", read_reg!("s3_0_c0_c4_4"), 0),
        ("SMFR0", read_reg!("s3_0_c0_c4_5"), 60),
    ];
    for &(name, value, shift) in hidden {
        check!(value >> shift & 0xf == 0, "{name} is shown: {value:#x}");
    }
    let pmu = read_reg!("id_aa64dfr0_el1") >> 8 & 0xf;
    check!(pmu == 0 || pmu == 0xf, "a PMU is shown: {pmu}");
    let pfr0 = read_reg!("id_aa64pfr0_el1");
    check!(
        pfr0 & 0xf != 0 && pfr0 >> 4 & 0xf != 0,
        "no EL0 or EL1: ID_AA64PFR0_EL1 {pfr0:#x}"
    );
    check!(
        (pfr0 >> 24 & 0xf == 0) == crate::gic::is_v2(),
        "GIC system registers do not go with the GIC: ID_AA64PFR0_EL1 {pfr0:#x}"
    );
    check!(
        read_reg!("id_aa64mmfr0_el1") >> 28 & 0xf != 0xf,
        "no 4 KB granule"
    );
    Ok(())
}

/// Registers that are never a guest's answer UNDEF on read and on write; those of features that are
/// hidden answer UNDEF, or read as something without harm.
pub(crate) fn undefined() -> Verdict {
    // (op0, op1, CRn, CRm, op2): EL2's own, EL3's own, implementation-defined, unallocated.
    let never: &[(u32, u32, u32, u32, u32)] = &[
        (3, 4, 1, 1, 0),   // HCR_EL2
        (3, 4, 2, 1, 0),   // VTTBR_EL2
        (3, 4, 12, 0, 0),  // VBAR_EL2
        (3, 4, 14, 0, 3),  // CNTVOFF_EL2
        (3, 4, 12, 12, 0), // ICH_LR0_EL2
        (3, 6, 1, 1, 0),   // SCR_EL3
        (3, 5, 1, 0, 0),   // SCTLR_EL12
        (3, 0, 15, 0, 0),
        (3, 0, 15, 2, 0),
        (3, 1, 15, 2, 0), // CPUACTLR_EL1 on Cortex-A57
        (3, 1, 15, 2, 1), // CPUECTLR_EL1
        (3, 1, 15, 3, 0), // CBAR_EL1
        (3, 3, 15, 7, 7),
        (3, 7, 15, 15, 7),
        (3, 0, 11, 0, 2),
        (3, 0, 13, 15, 7),
        (3, 2, 9, 9, 5),
    ];
    for &(op0, op1, n, m, op2) in never {
        for write in [false, true] {
            let name = format_args!("S{op0}_{op1}_C{n}_C{m}_{op2}, write {write}")
                .as_str()
                .unwrap_or("register");
            match run(&[encode(write, op0, op1, n, m, op2)]) {
                Some(t) if t.is_undef() => {}
                Some(t) => fail!("{name}: ESR {:#x}", t.esr),
                None => fail!("S{op0}_{op1}_C{n}_C{m}_{op2} (write: {write}) is not UNDEF"),
            }
        }
    }
    let hidden: &[(u32, u32, u32, u32, u32)] = &[
        (3, 0, 1, 2, 0),  // ZCR_EL1
        (3, 0, 1, 2, 6),  // SMCR_EL1
        (3, 3, 9, 12, 0), // PMCR_EL0
        (3, 3, 9, 13, 0), // PMCCNTR_EL0
        (3, 3, 13, 2, 0), // AMCR_EL0
        (3, 0, 2, 1, 0),  // APIAKeyLo_EL1
        (3, 0, 1, 0, 6),  // GCR_EL1
        (3, 0, 9, 9, 0),  // PMSCR_EL1
        (3, 0, 10, 4, 3), // LORC_EL1
        (3, 0, 10, 5, 0), // MPAM1_EL1
        (2, 1, 0, 1, 0),  // TRCPRGCTLR
        (2, 0, 0, 2, 2),  // MDSCR_EL1
        (2, 0, 1, 0, 4),  // OSLAR_EL1
        (2, 0, 0, 0, 5),  // DBGBCR0_EL1
    ];
    for &(op0, op1, n, m, op2) in hidden {
        for write in [false, true] {
            if let Some(t) = run(&[encode(write, op0, op1, n, m, op2)]) {
                check!(
                    t.is_undef(),
                    "S{op0}_{op1}_C{n}_C{m}_{op2}: ESR {:#x}",
                    t.esr
                );
            }
        }
    }
    Ok(())
}

/// Reading each of the 32,768 encodings of op0 2 and 3 gives a value or UNDEF, and nothing else.
pub(crate) fn sweep() -> Verdict {
    let (mut undefined, mut readable) = (0, 0);
    for op0 in 2..4 {
        for op1 in 0..8 {
            for n in 0..16 {
                for m in 0..16 {
                    let code: [u32; BATCH] =
                        core::array::from_fn(|op2| encode(false, op0, op1, n, m, op2 as u32));
                    let count = match run(&code) {
                        Some(t) if t.is_undef() => t.count,
                        Some(t) => fail!("S{op0}_{op1}_C{n}_C{m}: ESR {:#x}", t.esr),
                        None => 0,
                    };
                    undefined += count;
                    readable += BATCH as u32 - count;
                }
            }
        }
    }
    println!("sysreg-sweep: {readable} readable, {undefined} undefined");
    check!(readable > 50, "only {readable} registers could be read");
    Ok(())
}

/// Writing the implementation-defined space (CRn 11 and 15) goes on; under a hypervisor all of it is
/// UNDEF.
pub(crate) fn write_implementation_defined() -> Verdict {
    for op1 in 0..8 {
        for n in [11, 15] {
            for m in 0..16 {
                let code: [u32; BATCH] =
                    core::array::from_fn(|op2| encode(true, 3, op1, n, m, op2 as u32));
                let count = match run(&code) {
                    Some(t) if t.is_undef() => t.count,
                    Some(t) => fail!("S3_{op1}_C{n}_C{m}: ESR {:#x}", t.esr),
                    None => 0,
                };
                check!(
                    on_bare_machine() || count == BATCH as u32,
                    "{} of S3_{op1}_C{n}_C{m}_* can be written",
                    BATCH as u32 - count
                );
            }
        }
    }
    // Plain registers still work afterwards.
    write_reg!("tpidr_el0", 0x1234_5678_9abc_def0);
    barrier();
    check!(
        read_reg!("tpidr_el0") == 0x1234_5678_9abc_def0,
        "TPIDR_EL0 lost its value"
    );
    Ok(())
}
