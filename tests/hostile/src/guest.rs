//! The obedient guest: what it can be told, and the telling.

use crate::{access, board, call, cpu, gic};
use abi::run::{self, ExitReason};
use abi::{Error, HostCall};
use core::arch::global_asm;

global_asm!(include_str!("asm/guest.s"), gicc = const abi::GICC_IPA.0);

unsafe extern "C" {
    static guest_start: u8;
    static guest_end: u8;
}

/// IPA of the guest's RAM, where its program starts.
pub(crate) const RAM: u64 = 0x4000_0000;
/// IPA of its control page.
const CONTROL: u64 = 0x0900_0000;
/// Control page: what a load test reads.
pub(crate) const BAIT: u64 = CONTROL + 48;
/// Words that the guest reads there for each command.
const CONTROL_WORDS: usize = 5;
const RESULT: u64 = CONTROL + 64;
/// Control page: what a store test writes.
pub(crate) const DROP: u64 = CONTROL + 72;
/// pKVM's MEM_SHARE and MEM_UNSHARE.
pub(crate) const MEM_SHARE: u64 = 0xC600_0003;
pub(crate) const MEM_UNSHARE: u64 = 0xC600_0004;

/// The program's bytes.
pub(crate) fn program() -> &'static [u8] {
    let (start, end) = (&raw const guest_start, &raw const guest_end);
    // SAFETY: both symbols bound the guest's program in read-only data.
    unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Commands; numbers as in `asm/guest.s`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum Do {
    Peek,
    Poke,
    Fill,
    Hvc,
    FpSet,
    FpCount,
    Beat,
    Watch,
    Registers,
    Load,
    StoreByte,
    Acknowledge,
    Call,
    Context,
    Level,
    Faults,
    Wfi,
    Count,
    Blink,
    VirtualTimer,
}

/// An exit: reason and arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Exit {
    pub(crate) reason: u64,
    pub(crate) args: [u64; 3],
}

impl Exit {
    /// True for this reason.
    pub(crate) fn is(self, reason: ExitReason) -> bool {
        self.reason == reason as u64
    }
}

/// Why a command did not end with a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// VCPU_RUN refused.
    Refused(Error),
    /// Another exit.
    Exit(Exit),
}

/// A vCPU of a running VM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    pub(crate) vm: u64,
    pub(crate) index: u64,
    /// Address of its run page.
    pub(crate) page: u64,
}

impl Guest {
    /// Word `n` of the run page.
    pub(crate) fn page_word(self, n: usize) -> u64 {
        access::word(self.page + 8 * n as u64)
    }

    /// Sets word `n` of the run page.
    pub(crate) fn set_page_word(self, n: usize, value: u64) {
        access::set_word(self.page + 8 * n as u64, value);
    }

    /// One VCPU_RUN, which the timer ends after 2 ms at the latest.
    pub(crate) fn step(self) -> Result<Exit, Error> {
        self.step_with(&mut [0x1111_1111_1111_1111; 31], 2)
    }

    /// Runs it until it exits for a reason of its own: a starved CPU may see its timer first.
    pub(crate) fn next_exit(self) -> Result<Exit, Error> {
        for _ in 0..cpu::PATIENCE / 10 {
            let exit = self.step_with(&mut [0x1111_1111_1111_1111; 31], 10)?;
            if !exit.is(ExitReason::Irq) {
                return Ok(exit);
            }
        }
        self.step()
    }

    /// One VCPU_RUN with this program's registers as given, and as they are afterwards, and the timer's
    /// milliseconds.
    pub(crate) fn step_with(
        self,
        registers: &mut call::Registers,
        milliseconds: u64,
    ) -> Result<Exit, Error> {
        registers[0] = HostCall::VcpuRun as u64;
        registers[1] = self.vm;
        registers[2] = self.index;
        cpu::arm_timer(milliseconds);
        call::hvc_all(registers);
        cpu::stop_timer();
        while gic::take_interrupt() {}
        Error::check(registers[0])?;
        let [_, reason, a, b, c] = [0, 1, 2, 3, 4].map(|n| registers[n]);
        Ok(Exit {
            reason,
            args: [a, b, c],
        })
    }

    /// Answers the MMIO read or write of the last exit.
    pub(crate) fn reply(self, value: u64) {
        self.set_page_word(run::MMIO_VALUE, value);
        self.set_page_word(run::ENTRY_FLAGS, run::ENTRY_REPLY);
    }

    /// Has the guest carry out a command that ends soon.
    pub(crate) fn command(self, what: Do, args: &[u64]) -> Result<u64, Stop> {
        self.command_within(what, args, 5000, 2)
    }

    /// Has the guest count at `ipa` until another CPU kicks this one; it outlasts what that one waits for.
    pub(crate) fn beat_until_kicked(self, ipa: u64) -> Result<u64, Stop> {
        self.command_within(Do::Beat, &[ipa], 0, 4 * cpu::PATIENCE)
    }

    /// Answers an access to the control page: a command word, or the result, which it returns.
    pub(crate) fn answer(self, exit: Exit, what: Do, args: &[u64]) -> Option<u64> {
        let [at, _, value] = exit.args;
        let n = (at.wrapping_sub(CONTROL) / 8) as usize;
        if exit.is(ExitReason::MmioRead) && n < CONTROL_WORDS {
            let argument = || args.get(n - 1).copied().unwrap_or(0);
            self.reply(if n == 0 { what as u64 } else { argument() });
        } else if exit.is(ExitReason::MmioWrite) && at == RESULT {
            self.reply(0);
            return Some(value);
        }
        None
    }

    /// Gives the guest a command, up to the point where the next entry begins to carry it out.
    pub(crate) fn begin(self, what: Do, args: &[u64]) -> Result<(), Stop> {
        loop {
            let exit = self.step_with(&mut [0; 31], 1000).map_err(Stop::Refused)?;
            let n = (exit.args[0].wrapping_sub(CONTROL) / 8) as usize;
            if exit.is(ExitReason::MmioRead) && n < CONTROL_WORDS {
                self.answer(exit, what, args);
                if n == CONTROL_WORDS - 1 {
                    return Ok(());
                }
            } else if !exit.is(ExitReason::Irq) {
                return Err(Stop::Exit(exit));
            }
        }
    }

    /// Lets the guest go on to its result, at most `patience` times `milliseconds`; the host's registers
    /// hold `fill` meanwhile.
    pub(crate) fn finish(self, fill: u64, patience: u32, milliseconds: u64) -> Result<u64, Stop> {
        let mut interrupts = 0;
        loop {
            let exit = self
                .step_with(&mut [fill; 31], milliseconds)
                .map_err(Stop::Refused)?;
            if exit.is(ExitReason::MmioWrite) && exit.args[0] == RESULT {
                self.reply(0);
                return Ok(exit.args[2]);
            } else if exit.is(ExitReason::Irq) {
                interrupts += 1;
                if interrupts > patience {
                    return Err(Stop::Exit(exit));
                }
            } else if !exit.is(ExitReason::Timer) {
                return Err(Stop::Exit(exit));
            }
        }
    }

    /// Has the guest carry out a command and waits for its result, at most `patience` times
    /// `milliseconds`.
    pub(crate) fn command_within(
        self,
        what: Do,
        args: &[u64],
        patience: u32,
        milliseconds: u64,
    ) -> Result<u64, Stop> {
        self.begin(what, args)?;
        self.finish(0, patience, milliseconds)
    }

    /// The guest's word at `ipa`.
    pub(crate) fn peek(self, ipa: u64) -> Result<u64, Stop> {
        self.command(Do::Peek, &[ipa])
    }

    /// Has the guest write a word.
    pub(crate) fn poke(self, ipa: u64, value: u64) -> Result<u64, Stop> {
        self.command(Do::Poke, &[ipa, value])
    }

    /// Has the guest make a hypercall.
    pub(crate) fn hvc(self, function: u64, a: u64) -> Result<u64, Stop> {
        self.command(Do::Hvc, &[function, a])
    }
}

/// The board's UART and the guest's control page have the same number; nobody may mistake them.
const _: () = assert!(CONTROL == board::UART);
