//! Row 14: system registers and instructions beyond the hostvisor's.

use super::Attack;
use crate::cpu::{self, mrs, msr};
use crate::exception::{Fault, attempt};
use crate::verdict::{Outcome, given, refused, require};
use crate::{access, frames, gic};
use abi::PAGE_SIZE;

pub(crate) const ATTACKS: &[Attack] = &[
    ("sysreg-read-all", read_all),
    ("sysreg-write-el2", write_el2),
    ("debug-registers", debug),
    ("pmu-registers", pmu),
    ("impdef-registers", impdef),
    ("pointer-keys", pointer_keys),
    ("feature-registers", features),
    ("feature-instructions", instructions),
    ("el2-instructions", el2_instructions),
    ("interface-switch", icc_sre),
    ("return-to-el2", return_to_el2),
];

/// A register's encoding: op0, op1, CRn, CRm, op2.
type Encoding = (u32, u32, u32, u32, u32);

/// MSR or MRS of a register with x10.
const fn encode((op0, op1, crn, crm, op2): Encoding, read: bool) -> u32 {
    0xd500_000a
        | op0 << 19
        | op1 << 16
        | crn << 12
        | crm << 8
        | op2 << 5
        | if read { 1 << 21 } else { 0 }
}

/// A page of code that runs one instruction.
struct Runner(u64);

impl Runner {
    fn new() -> Self {
        Self(frames::take(1))
    }

    /// Runs `instruction` with x10 = `value`; x10 afterwards, or the fault.
    fn run(&self, instruction: u32, value: u64) -> Result<u64, Fault> {
        access::set_word(self.0, u64::from(instruction) | 0xd65f_03c0 << 32);
        cpu::sync_code(self.0, 8);
        let mut x10 = value;
        let at = self.0;
        // SAFETY: one instruction that the attack chose, and a return; a fault skips it. The attacks below
        // run none that changes what this program lives by.
        let fault = attempt(|| unsafe {
            core::arch::asm!("blr {a}", a = in(reg) at, inout("x10") x10, out("x30") _, options(nostack));
        });
        fault.map_or(Ok(x10), Err)
    }

    /// `encoding` can be neither read nor written.
    fn is_closed(&self, encoding: Encoding, value: u64) -> bool {
        let outcomes = [
            self.run(encode(encoding, true), 0),
            self.run(encode(encoding, false), value),
        ];
        outcomes.iter().all(Result::is_err)
    }
}

/// Goes through registers none of which may be read or written.
fn all_closed(registers: impl Iterator<Item = Encoding>, value: u64) -> Outcome {
    let runner = Runner::new();
    let mut tried = 0;
    for encoding in registers {
        require!(runner.is_closed(encoding, value), "S{encoding:?} is open");
        tried += 1;
    }
    given!(tried > 0, "nothing tried");
    refused!("{tried} registers, undefined to read and to write")
}

/// All 32768 encodings of MRS: a value or UNDEFINED; never a register of EL2 or EL3.
fn read_all() -> Outcome {
    let code = frames::take((1 << 14) * 8 / PAGE_SIZE);
    let (mut values, mut undefined) = (0, 0);
    for op0 in 2..4 {
        for n in 0..1u32 << 14 {
            let at = code + 8 * u64::from(n);
            access::set_word(
                at,
                u64::from(0xd520_000a | op0 << 19 | n << 5) | 0xd65f_03c0 << 32,
            );
        }
        cpu::sync_code(code, (1 << 14) * 8);
        for n in 0..1u32 << 14 {
            let at = code + 8 * u64::from(n);
            // SAFETY: reads a register; see `Runner::run`.
            let fault = attempt(|| unsafe {
                core::arch::asm!("blr {a}", a = in(reg) at, out("x10") _, out("x30") _, options(nostack));
            });
            match fault {
                None => {
                    require!(
                        n >> 11 < 4,
                        "S{op0}_{}_{:#x} of a higher level reads",
                        n >> 11,
                        n & 0x7ff
                    );
                    require!(op0 == 3, "debug register {n:#x} reads");
                    values += 1;
                }
                Some(fault) => {
                    // FP, SVE, SME: CPACR_EL1 keeps them from EL1 itself; `feature-registers` opens it.
                    let unit = matches!(fault.class(), 0x07 | 0x19 | 0x1d);
                    require!(fault.is_undefined() || unit, "S{op0} {n:#x}: {fault:x?}");
                    undefined += 1;
                }
            }
        }
    }
    given!(values > 50, "only {values} registers read");
    refused!("{values} registers of EL1, {undefined} undefined")
}

/// Everything with an op1 of EL2, EL3 or their aliases.
fn write_el2() -> Outcome {
    let runner = Runner::new();
    let mut tried = 0;
    for op1 in 4..8 {
        for n in 0..1u32 << 11 {
            let encoding = (3, op1, n >> 7, n >> 3 & 15, n & 7);
            let outcome = runner.run(encode(encoding, false), u64::MAX);
            require!(
                outcome.is_err_and(|f| f.is_undefined()),
                "S{encoding:?}: {outcome:x?}"
            );
            tried += 1;
        }
    }
    refused!("{tried} registers")
}

/// Breakpoints, watchpoints, their control, OS lock, debug channel, trace.
fn debug() -> Outcome {
    let points = (0..16).flat_map(|n| (4..8).map(move |op2| (2, 0, 0, n, op2)));
    let others = [
        (2, 0, 0, 2, 0), // MDCCINT_EL1
        (2, 0, 0, 2, 2), // MDSCR_EL1
        (2, 0, 0, 0, 2), // OSDTRRX_EL1
        (2, 0, 0, 6, 2), // OSECCR_EL1
        (2, 0, 1, 3, 4), // OSDLR_EL1
        (2, 0, 1, 4, 4), // DBGPRCR_EL1
        (2, 0, 7, 8, 6), // DBGCLAIMSET_EL1
        (2, 3, 0, 4, 0), // DBGDTR_EL0
        (2, 1, 0, 4, 0), // TRCPRGCTLR
        (3, 0, 1, 2, 1), // TRFCR_EL1
    ];
    let how = all_closed(points.chain(others), 0x1e5)?;
    // OSLAR_EL1 is for writing alone.
    let lock = Runner::new().run(encode((2, 0, 1, 0, 4), false), 0);
    require!(lock.is_err(), "OSLAR_EL1 took a write");
    Ok(how)
}

/// Performance monitors: they count EL2 if they are asked to.
fn pmu() -> Outcome {
    let control = [
        (3, 3, 9, 12, 0),
        (3, 3, 9, 12, 1),
        (3, 3, 9, 12, 2),
        (3, 3, 9, 12, 3),
        (3, 3, 9, 12, 5),
        (3, 3, 9, 13, 0),
        (3, 3, 9, 13, 1),
        (3, 3, 9, 13, 2),
        (3, 3, 9, 14, 0),
        (3, 3, 9, 14, 3),
        (3, 0, 9, 14, 1),
        (3, 0, 9, 14, 2),
        (3, 3, 14, 15, 7),
    ];
    let events =
        (0..31).flat_map(|n| [(3, 3, 14, 8 + n / 8, n % 8), (3, 3, 14, 12 + n / 8, n % 8)]);
    all_closed(control.into_iter().chain(events), 1 << 27)
}

/// Registers of the implementation: cache control, errata switches, doors of all kinds.
fn impdef() -> Outcome {
    let numbers = (0..8).flat_map(|op1| [11, 15].into_iter().map(move |crn| (op1, crn)));
    let all = numbers.flat_map(|(op1, crn)| (0..128).map(move |n| (3, op1, crn, n >> 3, n & 7)));
    all_closed(all, 0)
}

/// Pointer authentication keys: whoever knows a guest's can forge its pointers.
fn pointer_keys() -> Outcome {
    let keys = (1..4).flat_map(|crm| (0..4).map(move |op2| (3, 0, 2, crm, op2)));
    all_closed(keys.filter(|key| !matches!(key, (_, _, _, 3, 2 | 3))), 1)
}

/// SVE, SME, MTE, activity monitors, profiling, LORegions, error records.
fn features() -> Outcome {
    let registers = [
        (3, 0, 1, 2, 0),  // ZCR_EL1
        (3, 0, 1, 2, 6),  // SMCR_EL1
        (3, 0, 1, 0, 5),  // RGSR_EL1
        (3, 0, 1, 0, 6),  // GCR_EL1
        (3, 0, 5, 6, 0),  // TFSR_EL1
        (3, 3, 13, 2, 0), // AMCR_EL0
        (3, 3, 13, 0, 5), // TPIDR2_EL0
        (3, 3, 13, 0, 7), // SCXTNUM_EL0
        (3, 0, 13, 0, 7), // SCXTNUM_EL1
        (3, 0, 9, 9, 0),  // PMSCR_EL1
        (3, 0, 9, 10, 0), // PMBLIMITR_EL1
        (3, 0, 9, 11, 0), // TRBLIMITR_EL1
        (3, 0, 10, 4, 0), // LORSA_EL1
        (3, 0, 10, 4, 3), // LORC_EL1
        (3, 0, 5, 3, 1),  // ERRSELR_EL1
        (3, 0, 5, 4, 0),  // ERXFR_EL1
    ];
    msr!("cpacr_el1", ALL_UNITS);
    let outcome = all_closed(registers.into_iter(), 0);
    msr!("cpacr_el1", 0);
    outcome
}

/// CPACR_EL1: as far as EL1 goes, SVE, FP and SME are open.
const ALL_UNITS: u64 = 3 << 16 | 3 << 20 | 3 << 24;

/// Instructions of units that are not switched between worlds.
fn instructions() -> Outcome {
    let runner = Runner::new();
    let list = [
        ("RDVL", 0x04bf_502a),
        ("PTRUE", 0x2518_e3e0),
        ("SMSTART", 0xd503_477f),
        ("FMOV", 0x9e67_0140),
        ("LDG", 0xd960_014a),
    ];
    for (name, word) in list {
        msr!("cpacr_el1", ALL_UNITS);
        let outcome = runner.run(word, frames::take(0));
        msr!("cpacr_el1", 0);
        // LDG is a NOP or reads tag 0 where tags are off.
        let harmless = name == "LDG" && outcome.is_ok_and(|v| v >> 56 == 0);
        require!(harmless || outcome.is_err(), "{name}: {outcome:x?}");
    }
    refused!("{} instructions", list.len())
}

/// AT and TLBI of EL2 and of stage 2, cache maintenance by EL2's rules.
fn el2_instructions() -> Outcome {
    let runner = Runner::new();
    let mut tried = 0;
    for op1 in [4, 5, 6, 7] {
        for crn in [7, 8, 9] {
            for n in 0..128 {
                let word = encode((1, op1, crn, n >> 3, n & 7), false);
                let outcome = runner.run(word, 0);
                require!(
                    outcome.is_err_and(|f| f.is_undefined()),
                    "SYS #{op1}, C{crn}, {n:#x}: {outcome:x?}"
                );
                tried += 1;
            }
        }
    }
    refused!("{tried} instructions")
}

/// ICC_SRE_EL1.SRE = 0 would bring the memory-mapped interface back.
fn icc_sre() -> Outcome {
    gic::needs(3)?;
    let before = mrs!("s3_0_c12_c12_5");
    msr!("s3_0_c12_c12_5", 0);
    let after = mrs!("s3_0_c12_c12_5");
    msr!("actlr_el1", u64::MAX);
    let actlr = mrs!("actlr_el1");
    given!(before & 1 == 1, "ICC_SRE_EL1 is {before:#x}");
    require!(
        after == before && actlr == 0,
        "ICC_SRE_EL1 became {after:#x}, ACTLR_EL1 {actlr:#x}"
    );
    refused!("{before:#x} whatever is written")
}

/// ERET with a PSTATE of EL2.
fn return_to_el2() -> Outcome {
    for mode in [0x3c9u64, 0x3c8, 0x3cd, 0x3cc] {
        let mut reached = 0u64;
        // SAFETY: an illegal return stays at this level and stack; the handler takes PSTATE.IL away and
        // skips an instruction.
        let fault = attempt(|| unsafe {
            core::arch::asm!(
                "msr spsr_el1, {mode}",
                "adr {t}, 1f",
                "msr elr_el1, {t}",
                "isb",
                "eret",
                "1: nop",
                "nop",
                "mrs {t}, currentel",
                mode = in(reg) mode,
                t = out(reg) reached,
                options(nostack)
            );
        });
        let level = reached >> 2;
        require!(level == 1, "SPSR {mode:#x} led to EL{level}");
        given!(
            fault.is_some_and(|f| f.class() == 0x0e),
            "SPSR {mode:#x}: {fault:x?}"
        );
    }
    refused!("illegal return, at EL1 as before")
}
