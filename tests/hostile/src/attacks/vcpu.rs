//! Row 11: a protected vCPU's registers, its answers, its power.

use super::{Attack, SECRET};
use crate::guest::{self, BAIT, DROP, Do, Guest, Stop};
use crate::verdict::{Failure, Outcome, given, refused, require};
use crate::vm::{SECRET_IPA, Vm};
use crate::{call, cpu};
use abi::run::{self, ExitReason};
use abi::{Error, HostCall, PAGE_SIZE, psci};

pub(crate) const ATTACKS: &[Attack] = &[
    ("mmio-wrong-register", wrong_register),
    ("mmio-too-wide", too_wide),
    ("mmio-write-exposes-little", exposes_little),
    ("mmio-read-exposes-nothing", read_exposes_nothing),
    ("reply-unasked", reply_unasked),
    ("abort-unasked", abort_unasked),
    ("entry-flags-unknown", unknown_flags),
    ("entry-level", level),
    ("registers-in-between", in_between),
    ("run-never-on", never_on),
    ("run-after-cpu-off", after_cpu_off),
    ("run-after-system-off", after_system_off),
    ("secondary-entry", secondary),
    ("cpu-on-exposes-little", cpu_on_exposes),
    ("mmio-guarded", guarded),
    ("mmio-guarded-fetch", guarded_fetch),
];

/// Has the guest begin `what`, up to the access at `ipa` that ends in an exit.
fn up_to(guest: Guest, what: Do, args: &[u64], ipa: u64) -> Result<[u64; 3], Failure> {
    match guest.command(what, args) {
        Err(Stop::Exit(exit)) if exit.args[0] == ipa => Ok(exit.args),
        other => {
            given!(false, "{what:?} ended with {other:x?}");
            Ok([0; 3])
        }
    }
}

/// All registers and flags hold patterns when an MMIO load into x5 comes; the host's registers and the
/// rest of the run page say otherwise.
fn wrong_register() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    for seed in [SECRET, 0, u64::MAX - 40] {
        up_to(guest, Do::Registers, &[seed], BAIT)?;
        for n in 0..512 {
            if !(run::ENTRY_FLAGS..=run::ICH_HCR).contains(&n) && !(16..32).contains(&n) {
                guest.set_page_word(n, 0xdead_0000 + n as u64);
            }
        }
        guest.reply(0xcafe);
        let result = guest.finish(0xeeee_eeee_eeee_eeee, 100, 100)?;
        require!(
            result == 0xcafe,
            "the guest says {result:#x}: a register that was not loaded changed"
        );
    }
    refused!("x5 alone, and the flags kept, for 3 patterns")
}

/// The reply has more bits than the load.
fn too_wide() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    const ALL: u64 = 0xa5a5_a5a5_a5a5_a5a5;
    let expected = [0xa5, 0xffff_ffff_ffff_ffa5, 0xa5a5, 0xa5a5_a5a5, 0];
    for (which, expected) in (0..).zip(expected) {
        up_to(guest, Do::Load, &[which], BAIT)?;
        guest.reply(ALL);
        let loaded = guest.finish(0, 100, 100)?;
        require!(loaded == expected, "load {which} gave {loaded:#x}");
    }
    refused!("bytes, signed bytes, halves, words, and nothing into XZR")
}

/// STRB: the host gets the byte, not the register.
fn exposes_little() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let args = up_to(vm.first(), Do::StoreByte, &[SECRET], DROP)?;
    require!(args == [DROP, 1, SECRET & 0xff], "the exit says {args:x?}");
    refused!("address, size 1, one byte")
}

/// A load: the host gets no register's old content.
fn read_exposes_nothing() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let args = up_to(vm.first(), Do::Registers, &[SECRET], BAIT)?;
    require!(args == [BAIT, 8, 0], "the exit says {args:x?}");
    refused!("address and size alone")
}

/// Replies to exits that asked nothing: no register changes, no instruction is skipped.
fn reply_unasked() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    let wfi = guest.command(Do::Wfi, &[]);
    given!(
        matches!(wfi, Err(Stop::Exit(e)) if e.is(ExitReason::Wfi)),
        "{wfi:x?}"
    );
    guest.reply(0xbad);
    // Behind the WFI comes the store of x15 = 0.
    let result = guest.finish(0, 100, 100)?;
    require!(result == 0, "the guest's register became {result:#x}");
    // A long count, interrupted again and again, with a reply each time.
    let (interrupts, counted) = count_with(guest, run::ENTRY_REPLY)?;
    require!(counted == COUNT, "it counted to {counted}");
    refused!("{interrupts} replies to interrupts, none taken")
}

const COUNT: u64 = 30_000_000;

/// Has the guest count, with `flags` in the run page at each entry after an interrupt; the interrupts,
/// and how far it counted.
fn count_with(guest: Guest, flags: u64) -> Result<(u64, u64), Failure> {
    guest.begin(Do::Count, &[COUNT])?;
    let mut interrupts = 0;
    loop {
        let exit = guest.step_with(&mut [0; 31], 1)?;
        if !exit.is(ExitReason::Irq) {
            given!(interrupts > 0, "never interrupted");
            require!(exit.is(ExitReason::MmioWrite), "{exit:x?}");
            guest.reply(0);
            return Ok((interrupts, exit.args[2]));
        }
        interrupts += 1;
        guest.set_page_word(run::MMIO_VALUE, 0xbad);
        guest.set_page_word(run::ENTRY_FLAGS, flags);
    }
}

/// The same with ENTRY_ABORT: an exception out of nowhere.
fn abort_unasked() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    let (interrupts, counted) = count_with(guest, run::ENTRY_ABORT)?;
    require!(counted == COUNT, "it counted to {counted}");
    let faults = guest.command(Do::Faults, &[])?;
    require!(faults == 0, "the guest took exceptions: {faults:#x}");
    // Where it was asked for it works: precondition of the above.
    up_to(
        guest,
        Do::Peek,
        &[SECRET_IPA + (1 << 24)],
        SECRET_IPA + (1 << 24),
    )?;
    guest.set_page_word(run::ENTRY_FLAGS, run::ENTRY_ABORT);
    guest.finish(0, 100, 100)?;
    let faults = guest.command(Do::Faults, &[])?;
    given!(
        faults >> 32 == 1,
        "an abort that was asked for: {faults:#x}"
    );
    refused!("{interrupts} aborts without an access, none taken")
}

fn unknown_flags() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    let known = run::ENTRY_REPLY | run::ENTRY_ABORT | run::ENTRY_TRAP_WFE;
    for bit in (0..64).filter(|bit| known >> bit & 1 == 0) {
        guest.set_page_word(run::ENTRY_FLAGS, 1 << bit | 1);
        let answer = guest.step();
        require!(answer == Err(Error::Invalid), "bit {bit}: {answer:x?}");
    }
    guest.set_page_word(run::ENTRY_FLAGS, 0);
    require!(guest.command(Do::Count, &[9])? == 9, "the guest is broken");
    refused!("Invalid for each bit")
}

fn level() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let level = vm.first().command(Do::Level, &[])?;
    require!(level == 1 << 2, "CurrentEL is {level:#x}");
    refused!("EL1")
}

/// Interrupted in the middle of its work with every register of the host different: the guest's are its
/// own when it goes on.
fn in_between() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    guest.poke(SECRET_IPA, SECRET)?;
    for n in 0..50 {
        up_to(guest, Do::Registers, &[SECRET + n], BAIT)?;
        // Not answered: the access repeats, with everything as it was.
        for _ in 0..3 {
            let again = guest.step_with(&mut [n; 31], cpu::PATIENCE)?;
            given!(again.is(ExitReason::MmioRead), "{again:x?}");
        }
        guest.reply(n);
        let result = guest.finish(0xdddd, 100, 100)?;
        require!(result == n, "the guest says {result:#x}");
    }
    refused!("intact through 200 entries")
}

fn never_on() -> Outcome {
    let vm = Vm::running(true, 2)?;
    given!(
        vm.first().command(Do::Count, &[2])? == 2,
        "vCPU 0 does not run"
    );
    let answer = vm.guest(1).step();
    require!(
        answer == Err(Error::BadState),
        "ran a vCPU that is off: {answer:x?}"
    );
    refused!("BadState")
}

fn after_cpu_off() -> Outcome {
    let vm = Vm::running(true, 2)?;
    let off = vm.first().hvc(psci::CPU_OFF.into(), 0);
    given!(
        matches!(off, Err(Stop::Exit(e)) if e.is(ExitReason::CpuOff)),
        "{off:x?}"
    );
    let answer = vm.first().step();
    require!(answer == Err(Error::BadState), "{answer:x?}");
    refused!("BadState")
}

fn after_system_off() -> Outcome {
    for function in [psci::SYSTEM_OFF, psci::SYSTEM_RESET] {
        let vm = Vm::running(true, 2)?;
        let off = vm.first().hvc(function.into(), 0);
        given!(matches!(off, Err(Stop::Exit(_))), "{off:x?}");
        let answers = [vm.first().step(), vm.guest(1).step()];
        require!(answers == [Err(Error::BadState); 2], "{answers:x?}");
    }
    refused!("BadState")
}

/// vCPU 1 starts where and with what its VM said, whatever the host holds in its registers.
fn secondary() -> Outcome {
    let vm = Vm::running(true, 2)?;
    let (first, second) = (vm.first(), vm.guest(1));
    let on = first.command(Do::Hvc, &[psci::CPU_ON_64.into(), 1, guest::RAM, SECRET]);
    given!(
        matches!(on, Err(Stop::Exit(e)) if e.is(ExitReason::CpuOn)),
        "{on:x?}"
    );
    second.set_page_word(run::MMIO_VALUE, 0xbad);
    second.set_page_word(run::ENTRY_FLAGS, run::ENTRY_REPLY);
    let begin = second.step_with(&mut [0xbbbb_bbbb; 31], cpu::PATIENCE)?;
    given!(
        begin.is(ExitReason::MmioRead),
        "its first exit is {begin:x?}"
    );
    second.set_page_word(run::ENTRY_FLAGS, 0);
    let context = second.command(Do::Context, &[])?;
    require!(context == SECRET, "its x0 was {context:#x}");
    require!(second.command(Do::Level, &[])? == 1 << 2, "not at EL1");
    let boot = call::host(HostCall::VmSetBoot, &[vm.handle, guest::RAM, 3]);
    require!(boot == Err(Error::BadState), "{boot:?}");
    refused!("the VM's own entry and context")
}

const MMIO_GUARD: u64 = 0xC600_0007;
/// A page that maps nothing and is not the control page.
const ELSEWHERE: u64 = 0x0a00_0000;

/// A guest that has named its devices' pages takes an abort anywhere else; the host is not asked.
fn guarded() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    up_to(guest, Do::Peek, &[ELSEWHERE], ELSEWHERE)?;
    guest.reply(1);
    given!(
        guest.finish(0, 100, 100)? == 1,
        "an unguarded access is not the host's"
    );
    let named = guest.hvc(MMIO_GUARD, guest::DROP & !0xfff)?;
    given!(named == 0, "MMIO_GUARD answers {named:#x}");
    guest.command(Do::Faults, &[])?;
    let peek = guest.peek(ELSEWHERE);
    require!(peek.is_ok(), "the host was asked: {peek:x?}");
    let faults = guest.command(Do::Faults, &[])?;
    require!(faults >> 32 == 1, "the guest took no abort: {faults:#x}");
    refused!("an abort in the guest")
}

/// The same for an instruction fetch.
fn guarded_fetch() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    let Err(Stop::Exit(exit)) = guest.command(Do::Call, &[ELSEWHERE]) else {
        given!(false, "an unguarded fetch does not stop the guest");
        return refused!("");
    };
    given!(
        exit.is(ExitReason::MemFault) && exit.args == [ELSEWHERE, 2, 0],
        "an unguarded fetch is not the host's: {exit:x?}"
    );
    guest.set_page_word(run::ENTRY_FLAGS, run::ENTRY_ABORT);
    guest.finish(0, 100, 100)?;
    let named = guest.hvc(MMIO_GUARD, guest::DROP & !0xfff)?;
    given!(named == 0, "MMIO_GUARD answers {named:#x}");
    guest.command(Do::Faults, &[])?;
    let call = guest.command(Do::Call, &[ELSEWHERE]);
    require!(call.is_ok(), "the host was told: {call:x?}");
    let faults = guest.command(Do::Faults, &[])?;
    require!(faults >> 32 == 1, "the guest took no abort: {faults:#x}");
    refused!("an abort in the guest")
}

/// CPU_ON tells the host the vCPU's number, not entry and context.
fn cpu_on_exposes() -> Outcome {
    let vm = Vm::running(true, 2)?;
    let args = [psci::CPU_ON_64.into(), 1, guest::RAM + PAGE_SIZE, SECRET];
    let on = vm.first().command(Do::Hvc, &args);
    let Err(Stop::Exit(exit)) = on else {
        given!(false, "{on:x?}");
        return refused!("");
    };
    given!(exit.is(ExitReason::CpuOn), "{exit:x?}");
    require!(exit.args == [1, 0, 0], "the exit says {exit:x?}");
    refused!("the number alone")
}
