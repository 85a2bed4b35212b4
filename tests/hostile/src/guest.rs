//! The obedient guest: what it can be told, and the telling.

use crate::{access, board, call, cpu};
use abi::run::{self, ExitReason};
use abi::{Error, HostCall};
use core::arch::global_asm;

global_asm!(include_str!("asm/guest.s"));

unsafe extern "C" {
    static guest_start: u8;
    static guest_end: u8;
}

/// IPA of the guest's RAM, where its program starts.
pub const RAM: u64 = 0x4000_0000;
/// IPA of its control page.
const CONTROL: u64 = 0x0900_0000;
/// Control page: what a load test reads.
pub const BAIT: u64 = CONTROL + 48;
const RESULT: u64 = CONTROL + 64;
/// Control page: what a store test writes.
pub const DROP: u64 = CONTROL + 72;
/// pKVM's MEM_SHARE and MEM_UNSHARE.
pub const MEM_SHARE: u64 = 0xC600_0003;
pub const MEM_UNSHARE: u64 = 0xC600_0004;

/// The program's bytes.
pub fn program() -> &'static [u8] {
    let (start, end) = (&raw const guest_start, &raw const guest_end);
    // SAFETY: both symbols bound the guest's program in read-only data.
    unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Commands; numbers as in `asm/guest.s`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Do {
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
pub struct Exit {
    pub reason: u64,
    pub args: [u64; 3],
}

impl Exit {
    /// True for this reason.
    pub fn is(self, reason: ExitReason) -> bool {
        self.reason == reason as u64
    }
}

/// Why a command did not end with a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// VCPU_RUN refused.
    Refused(Error),
    /// Another exit.
    Exit(Exit),
}

/// A vCPU of a running VM.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    pub vm: u64,
    pub index: u64,
    /// Address of its run page.
    pub page: u64,
}

impl Guest {
    /// Word `n` of the run page.
    pub fn page_word(self, n: usize) -> u64 {
        access::word(self.page + 8 * n as u64)
    }

    /// Sets word `n` of the run page.
    pub fn set_page_word(self, n: usize, value: u64) {
        access::set_word(self.page + 8 * n as u64, value);
    }

    /// One VCPU_RUN, which the timer ends after 2 ms at the latest.
    pub fn step(self) -> Result<Exit, Error> {
        let mut registers = [0x1111_1111_1111_1111; 31];
        self.step_with(&mut registers)
    }

    /// The same, with this program's registers as given; what they are afterwards.
    pub fn step_with(self, registers: &mut call::Registers) -> Result<Exit, Error> {
        registers[0] = HostCall::VcpuRun as u64;
        registers[1] = self.vm;
        registers[2] = self.index;
        cpu::arm_timer(2);
        call::hvc_all(registers);
        cpu::stop_timer();
        while cpu::take_interrupt() < 1020 {}
        Error::check(registers[0])?;
        let [_, reason, a, b, c] = [0, 1, 2, 3, 4].map(|n| registers[n]);
        Ok(Exit { reason, args: [a, b, c] })
    }

    /// Answers the MMIO read or write of the last exit.
    pub fn reply(self, value: u64) {
        self.set_page_word(run::MMIO_VALUE, value);
        self.set_page_word(run::ENTRY_FLAGS, run::ENTRY_REPLY);
    }

    /// Has the guest carry out a command and waits for its result, at most `patience` exits by timer.
    pub fn command_within(self, what: Do, args: &[u64], patience: u32) -> Result<u64, Stop> {
        self.resume(what as u64, args, patience)
    }

    /// Has the guest carry out a command that ends soon.
    pub fn command(self, what: Do, args: &[u64]) -> Result<u64, Stop> {
        self.resume(what as u64, args, 5000)
    }

    /// Goes on with a command that stopped for another exit.
    pub fn resume(self, what: u64, args: &[u64], patience: u32) -> Result<u64, Stop> {
        let mut interrupts = 0;
        loop {
            let exit = self.step().map_err(Stop::Refused)?;
            let [at, ..] = exit.args;
            let control = (CONTROL..CONTROL + 48).contains(&at);
            if exit.is(ExitReason::MmioRead) && control {
                let n = ((at - CONTROL) / 8) as usize;
                self.reply(if n == 0 { what } else { args.get(n - 1).copied().unwrap_or(0) });
            } else if exit.is(ExitReason::MmioWrite) && at == RESULT {
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

    /// Runs until `reason`; its arguments.
    pub fn until(self, reason: ExitReason) -> Result<[u64; 3], Stop> {
        for _ in 0..100 {
            let exit = self.step().map_err(Stop::Refused)?;
            if exit.is(reason) {
                return Ok(exit.args);
            }
            if !exit.is(ExitReason::Irq) {
                return Err(Stop::Exit(exit));
            }
        }
        Err(Stop::Refused(Error::Again))
    }

    /// The guest's word at `ipa`.
    pub fn peek(self, ipa: u64) -> Result<u64, Stop> {
        self.command(Do::Peek, &[ipa])
    }

    /// Has the guest write a word.
    pub fn poke(self, ipa: u64, value: u64) -> Result<u64, Stop> {
        self.command(Do::Poke, &[ipa, value])
    }

    /// Has the guest make a hypercall.
    pub fn hvc(self, function: u64, a: u64) -> Result<u64, Stop> {
        self.command(Do::Hvc, &[function, a])
    }
}

/// The board's UART and the guest's control page have the same number; nobody may mistake them.
const _: () = assert!(CONTROL == board::UART);
