//! Row 12: what a VM leaves in registers.

use super::{Attack, SECRET};
use crate::cpu::{self, mrs, msr};
use crate::exception::attempt;
use crate::guest::{self, Do, Stop};
use crate::smp::{self, together};
use crate::verdict::{Failure, Outcome, given, refused, require};
use crate::vm::{PAGES, Vm};
use crate::{access, call, frames};
use abi::run::{self, ExitReason};
use abi::{Error, HostCall, PAGE_SIZE};
use core::sync::atomic::{AtomicU64, Ordering};

pub(crate) const ATTACKS: &[Attack] = &[
    ("general-registers", general_registers),
    ("system-registers", system_registers),
    ("virtual-timer", virtual_timer),
    ("exit-registers", exit_registers),
    ("fp-read", fp_read),
    ("fp-read-after-destroy", fp_after_destroy),
    ("fp-next-vm", fp_next_vm),
    ("fp-next-tenant", fp_next_tenant),
    ("fp-elsewhere", fp_elsewhere),
    ("fp-put-elsewhere", fp_put_elsewhere),
    ("run-page-secrets", run_page_secrets),
];

/// x5–x30 after an exit are what they were before; the guest had its secret in all of its own.
fn general_registers() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    guest.command(Do::Count, &[1])?;
    let exit = guest.command(Do::Registers, &[SECRET]);
    given!(
        matches!(exit, Err(Stop::Exit(e)) if e.args[0] == guest::BAIT),
        "{exit:x?}"
    );
    let mut registers = [0; 31];
    for (n, register) in registers.iter_mut().enumerate() {
        *register = 0x7777_0000 + n as u64;
    }
    // Unanswered: it comes back with the same exit, all registers full of the pattern.
    guest.step_with(&mut registers, 5)?;
    for (n, value) in registers.iter().enumerate() {
        require!(
            value.wrapping_sub(SECRET) > 31,
            "x{n} holds the guest's {value:#x}"
        );
        require!(
            n < 5 || *value == 0x7777_0000 + n as u64,
            "x{n} became {value:#x}"
        );
    }
    refused!("x5-x30 unchanged, x0-x4 the answer")
}

const OP0_3: usize = 1 << 14;
const RET: u32 = 0xd65f_03c0;

/// MRS (or MSR without bit 21) x10 of register number `n`: op1, CRn, CRm, op2 in 14 bits, op0 = 3.
const fn instruction(n: usize, read: bool) -> u32 {
    0xd518_000a | (n as u32) << 5 | if read { 1 << 21 } else { 0 }
}

/// Registers that change by themselves or by the sweep's own exceptions.
fn is_volatile(n: usize) -> bool {
    let (op1, crn, crm, op2) = (n >> 11, n >> 7 & 15, n >> 3 & 15, n & 7);
    matches!(
        (op1, crn, crm, op2),
        (3, 14, _, _)            // timers: looked at by `virtual-timer`
            | (0, 4, _, _)       // ELR, SPSR, SP_EL0, SPSel, CurrentEL, PMR: ELR and SPSR by the sweep
            | (3, 4, _, _)       // NZCV, DAIF, FPCR ...
            | (0, 5, 2, 0)       // ESR
            | (0, 6, 0, 0)       // FAR
            | (0, 12, 1, 0)      // ISR
            | (0, 12, 8 | 11 | 12, _) // interrupts
            | (3, 2, 4, _)       // random numbers
            | (3, 9, 13, 0) // cycle counter
    )
}

/// A routine for each register: MRS x10; MOV x0, x10; RET.
fn reader() -> u64 {
    let code = frames::take(OP0_3 as u64 * 16 / PAGE_SIZE);
    for n in 0..OP0_3 {
        let at = code + 16 * n as u64;
        access::set_word(at, u64::from(instruction(n, true)) | 0xaa0a_03e0 << 32);
        access::set_word(at + 8, RET.into());
    }
    cpu::sync_code(code, OP0_3 as u64 * 16);
    code
}

/// Register `n` by the routine at `code`, if this program may read it.
pub(crate) fn read_by(code: u64, n: usize) -> Option<u64> {
    let mut value = 0;
    let at = code + 16 * n as u64;
    // SAFETY: the routine reads one register into x0 by way of x10; if it traps, the instruction is skipped.
    let fault = attempt(|| unsafe {
        core::arch::asm!("blr {a}", a = in(reg) at, out("x0") value, out("x10") _, out("x30") _, options(nostack));
    });
    if fault.is_some() { None } else { Some(value) }
}

/// The guest writes a mark to every register it may write; no register that the host can read has it
/// afterwards, or differs from before.
fn system_registers() -> Outcome {
    const MARK: u64 = 0x5ec3_e75e_c4e7_0003;
    let code = reader();
    let before = frames::take(OP0_3 as u64 * 8 / PAGE_SIZE);
    for n in 0..OP0_3 {
        access::set_word(before + 8 * n as u64, read_by(code, n).unwrap_or(0));
    }
    // The guest's routine, in the second half of its memory.
    let mut vm = Vm::create(true, 1)?;
    let pages = 16;
    let routine = frames::take(pages);
    let mut at = routine;
    let mut push = |word: u32| {
        let old = access::word(at & !7);
        let shift = (at & 4) * 8;
        access::set_word(
            at & !7,
            old & !(0xffff_ffff << shift) | u64::from(word) << shift,
        );
        at += 4;
    };
    for n in 0..OP0_3 {
        let (op1, crn, crm, op2) = (n >> 11, n >> 7 & 15, n >> 3 & 15, n & 7);
        let own = (op1, crn, crm, op2) == (0, 1, 0, 0)       // SCTLR_EL1
            || (op1, crn, crm, op2) == (0, 12, 0, 0)         // VBAR_EL1
            || (op1, crn, crm) == (0, 12, 11)                // sending interrupts
            || crn == 4; // PSTATE, SP, SPSR, ELR
        if (op1 == 0 || op1 == 3) && !own {
            push(instruction(n, false));
        }
    }
    // MDSCR_EL1, SP_EL0.
    push(0xd510_024a);
    push(0xd518_410a);
    push(RET);
    cpu::sync_code(routine, pages * PAGE_SIZE);
    vm.load()?;
    let ipa = guest::RAM + PAGES * PAGE_SIZE;
    vm.give(ipa, routine, pages)?;
    vm.start(0)?;
    vm.first().command(Do::Call, &[ipa, MARK])?;
    let read_back = mrs!("esr_el1") == MARK || mrs!("far_el1") == MARK || mrs!("elr_el1") == MARK;
    require!(!read_back, "ESR, FAR or ELR is the guest's");
    for n in 0..OP0_3 {
        let value = read_by(code, n);
        let name = (n >> 11, n >> 7 & 15, n >> 3 & 15, n & 7);
        require!(value != Some(MARK), "S3_{name:?} holds the guest's mark");
        let old = access::word(before + 8 * n as u64);
        require!(
            is_volatile(n) || value.unwrap_or(0) == old,
            "S3_{name:?}: {old:#x} became {value:x?}"
        );
    }
    refused!("{OP0_3} encodings as they were")
}

/// CNTV_CVAL_EL0 of a guest whose timer is off is nobody's business.
fn virtual_timer() -> Outcome {
    let vm = Vm::running(true, 1)?;
    vm.first().command(Do::VirtualTimer, &[SECRET])?;
    // CNTV_TVAL is the lower half of CVAL minus a counter that anybody can read.
    let (value, control) = (mrs!("cntv_cval_el0"), mrs!("cntv_ctl_el0"));
    require!(
        value != SECRET,
        "CNTV_CVAL_EL0 holds the guest's {value:#x}"
    );
    require!(control & 1 == 0, "the guest's timer runs on: {control:#x}");
    msr!("cntv_cval_el0", 0x1234);
    vm.first().command(Do::Count, &[2])?;
    for word in [run::VTIMER_DEADLINE, run::PTIMER_DEADLINE] {
        let told = vm.first().page_word(word);
        require!(
            told == u64::MAX,
            "the run page tells {told:#x} of a timer that is off"
        );
    }
    refused!("nothing of a timer that is off")
}

/// The answer's x2–x4 for exits without arguments.
fn exit_registers() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let exit = vm
        .first()
        .command(Do::Wfi, &[SECRET, SECRET, SECRET, SECRET]);
    let Err(Stop::Exit(exit)) = exit else {
        given!(false, "{exit:x?}");
        return refused!("");
    };
    given!(exit.is(ExitReason::Wfi), "{exit:x?}");
    require!(exit.args == [0; 3], "WFI says {exit:x?}");
    refused!("zero")
}

/// Has this CPU's FP unit open as far as EL1 goes, and reads it.
fn read_fp() -> Option<u64> {
    let mut value = 0;
    msr!("cpacr_el1", 3 << 20);
    // SAFETY: reads an FP register; this program is built without FP. A trap skips the instruction.
    let fault = attempt(|| unsafe {
        core::arch::asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "mov {v}, v7.d[1]",
            ".arch_extension nosimd",
            ".arch_extension nofp",
            v = inout(reg) value,
            options(nostack)
        );
    });
    msr!("cpacr_el1", 0);
    if fault.is_some() { None } else { Some(value) }
}

/// A VM whose guest has its secret in all FP registers.
fn with_fp() -> Result<Vm, Failure> {
    let vm = Vm::running(true, 1)?;
    vm.first().command(Do::FpSet, &[SECRET])?;
    let count = vm.first().command(Do::FpCount, &[SECRET])?;
    given!(count == 64, "{count} of 64 halves hold the secret");
    Ok(vm)
}

fn fp_read() -> Outcome {
    let vm = with_fp()?;
    let live = vm.first().page_word(run::STATE_FLAGS) & run::STATE_FP_LIVE != 0;
    given!(live, "its FP state is not in this CPU");
    let seen = read_fp();
    require!(seen.is_none(), "the host reads {seen:x?}");
    // FPSR and FPCR by name.
    // SAFETY: as in `read_fp`.
    let fault = attempt(|| unsafe {
        core::arch::asm!("mrs x9, s3_3_c4_c4_0", "mrs x9, s3_3_c4_c4_1", out("x9") _, options(nostack))
    });
    require!(fault.is_some(), "the host reads FPCR");
    let count = vm.first().command(Do::FpCount, &[SECRET])?;
    require!(count == 64, "{count} of 64 halves are left");
    call::host(HostCall::VcpuPut, &[vm.handle, 0])?;
    let seen = read_fp();
    require!(seen.is_none(), "after VCPU_PUT the host reads {seen:x?}");
    refused!("a trap")
}

fn fp_after_destroy() -> Outcome {
    let mut vm = with_fp()?;
    vm.finish()?;
    let seen = read_fp();
    require!(seen.is_none(), "the host reads {seen:x?}");
    refused!("a trap")
}

/// Another VM on the same CPU, while the first one's state is still in the unit.
fn fp_next_vm() -> Outcome {
    let vm = with_fp()?;
    let other = Vm::running(true, 1)?;
    let secrets = other.first().command(Do::FpCount, &[SECRET])?;
    require!(
        secrets == 0,
        "the next VM finds {secrets} halves of the secret"
    );
    let zeros = other.first().command(Do::FpCount, &[0])?;
    require!(zeros == 64, "the next VM finds {zeros} zeros of 64");
    other.first().command(Do::FpSet, &[1])?;
    let count = vm.first().command(Do::FpCount, &[SECRET])?;
    require!(count == 64, "the first VM finds {count} of 64 halves");
    refused!("zeros; and the first VM's own again")
}

/// The VM that takes over the slot of one that ended with its state in the unit.
fn fp_next_tenant() -> Outcome {
    let mut vm = with_fp()?;
    vm.finish()?;
    let next = Vm::running(true, 1)?;
    let secrets = next.first().command(Do::FpCount, &[SECRET])?;
    let zeros = next.first().command(Do::FpCount, &[0])?;
    require!(
        secrets == 0 && zeros == 64,
        "{secrets} halves of the secret, {zeros} zeros"
    );
    refused!("zeros")
}

/// Runs `work` on CPU 1 alone; what it says.
fn on_other_cpu(work: &(dyn Fn() -> u64 + Sync)) -> u64 {
    let said = AtomicU64::new(0);
    together(2, &|index| {
        if index == 1 {
            said.store(work(), Ordering::SeqCst);
        }
    });
    said.into_inner()
}

fn needs_two() -> Result<(), Failure> {
    if smp::count() < 2 {
        Err(Failure::Skipped("needs more CPUs"))
    } else {
        Ok(())
    }
}

fn fp_elsewhere() -> Outcome {
    needs_two()?;
    let vm = with_fp()?;
    let guest = vm.first();
    let answer = on_other_cpu(&|| match guest.step() {
        Err(error) => error.code().cast_unsigned(),
        Ok(_) => 0,
    });
    require!(
        Error::check(answer) == Err(Error::Elsewhere),
        "ran without its FP state: {answer:#x}"
    );
    call::host(HostCall::VcpuPut, &[vm.handle, 0])?;
    let count = on_other_cpu(&|| guest.command(Do::FpCount, &[SECRET]).unwrap_or(99));
    require!(count == 64, "after VCPU_PUT it finds {count} of 64 halves");
    // Its state is over there now.
    let back = guest.step();
    require!(back == Err(Error::Elsewhere), "{back:x?}");
    given!(
        on_other_cpu(&|| u64::from(call::host(HostCall::VcpuPut, &[guest.vm, 0]).is_ok())) == 1,
        "VCPU_PUT fails"
    );
    refused!("Elsewhere until VCPU_PUT, and then its own")
}

/// VCPU_PUT on a CPU that does not have the state would save somebody else's.
fn fp_put_elsewhere() -> Outcome {
    needs_two()?;
    let vm = with_fp()?;
    let guest = vm.first();
    let answer = on_other_cpu(&|| match call::host(HostCall::VcpuPut, &[guest.vm, 0]) {
        Err(error) => error.code().cast_unsigned(),
        Ok(_) => 0,
    });
    require!(Error::check(answer) == Err(Error::Elsewhere), "{answer:#x}");
    let count = guest.command(Do::FpCount, &[SECRET])?;
    require!(count == 64, "{count} of 64 halves are left");
    refused!("Elsewhere, the state intact")
}

/// All words of the run page after all kinds of exits.
fn run_page_secrets() -> Outcome {
    let vm = with_fp()?;
    let guest = vm.first();
    let _ = guest.command(Do::Registers, &[SECRET]);
    for n in 0..512 {
        let seen = guest.page_word(n);
        require!(seen.wrapping_sub(SECRET) > 31, "word {n} holds {seen:#x}");
    }
    refused!("nothing in 512 words")
}
