//! Guests of both machines: the protected one, whose every register and private word is a secret but
//! for what it passes out, and the other, which looks at all it can reach.

use crate::cpu::{Guest, Hardware};
use crate::hash::Hash;
use crate::machine::Machine;
use crate::world::{ESR_HVC, ESR_SMC};
use arch::context::{El1Regs, GpRegs, Timer};
use arch::hal::{FRAME_WORDS, TrapKind};
use arch::traps::CPTR_TFP;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages at which VMs of these runs have memory.
pub(super) const PAGES: [u64; 6] = [0x4_0000, 0x4_0001, 0x4_0002, 0x4_0200, 0x8_0000, 0x0_0000];

/// What a guest does next. All values are what it passes out, equal on both machines.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// HVC with these x0–x3; from register `secret_from` on arguments are secret.
    Hvc([u64; 4], usize),
    /// MEM_SHARE of a page, wiped before.
    Share(u64),
    /// A data abort: ESR, page, offset, value in the register that is stored.
    Data(u64, u64, u64, u64),
    /// An instruction abort: ESR, page.
    Fetch(u64, u64),
    /// A trapped system register: ESR, value written if that is passed out.
    SysReg(u64, Option<u64>),
    /// Any other exception: ESR.
    Other(u64),
    /// SMC with this x0.
    Smc(u64),
    /// Its virtual timer is set, and it runs on until an interrupt: CTL, CVAL.
    Timer(u64, u64),
    /// An SError.
    SError,
}

/// A guest on a CPU of one machine.
pub(super) struct TwinGuest {
    pub(super) machine: &'static Machine,
    pub(super) entries: &'static [AtomicU64],
    /// What is different in this machine.
    pub(super) secret: u64,
    /// VMs (by slot) that are protected, and in the first slot: whose secrets count.
    pub(super) is_secret: [bool; 2],
    /// What it does, last first.
    pub(super) script: Vec<Act>,
    /// What the other VM has seen.
    pub(super) seen: Hash,
    /// Entries into the protected VM.
    pub(super) entered: u64,
}

/// EL1 registers as a list.
pub(super) fn el1_words(el1: &El1Regs) -> [u64; 24] {
    [
        el1.sctlr,
        el1.tcr,
        el1.ttbr0,
        el1.ttbr1,
        el1.mair,
        el1.amair,
        el1.vbar,
        el1.contextidr,
        el1.cpacr,
        el1.elr,
        el1.spsr,
        el1.esr,
        el1.far,
        el1.afsr0,
        el1.afsr1,
        el1.par,
        el1.sp_el0,
        el1.sp_el1,
        el1.tpidr_el0,
        el1.tpidrro_el0,
        el1.tpidr_el1,
        el1.cntkctl,
        el1.csselr,
        el1.mdscr,
    ]
}

fn set_el1(el1: &mut El1Regs, value: impl Fn(u64) -> u64) {
    let all = [
        &mut el1.sctlr,
        &mut el1.tcr,
        &mut el1.ttbr0,
        &mut el1.ttbr1,
        &mut el1.mair,
        &mut el1.amair,
        &mut el1.vbar,
        &mut el1.contextidr,
        &mut el1.cpacr,
        &mut el1.elr,
        &mut el1.spsr,
        &mut el1.esr,
        &mut el1.far,
        &mut el1.afsr0,
        &mut el1.afsr1,
        &mut el1.par,
        &mut el1.sp_el0,
        &mut el1.sp_el1,
        &mut el1.tpidr_el0,
        &mut el1.tpidrro_el0,
        &mut el1.tpidr_el1,
        &mut el1.cntkctl,
        &mut el1.csselr,
        &mut el1.mdscr,
    ];
    for (register, n) in all.into_iter().zip(0..) {
        *register = value(n);
    }
}

/// Where `ipa` leads in the table at `root`, walked here.
pub(super) fn translate(machine: &Machine, root: u64, start: u32, ipa: u64) -> Option<usize> {
    let mut table = root & 0x0000_FFFF_FFFF_F000;
    for level in start..=3 {
        let shift = 12 + 9 * (3 - level);
        let index = machine.index(abi::Pfn(table >> 12))?;
        let word = machine.read(index, (ipa >> shift & 511) as usize);
        match word & 0b11 {
            0b11 if level < 3 => table = word & 0x0000_FFFF_FFFF_F000,
            0b11 | 0b01 => {
                let pa = (word & 0x0000_FFFF_FFFF_F000) | (ipa & ((1 << shift) - 1));
                return machine.index(abi::Pfn(pa >> 12));
            }
            _ => return None,
        }
    }
    None
}

impl TwinGuest {
    /// A value that is different in the other machine.
    fn secret(&self, n: u64) -> u64 {
        Hash::new(self.secret).word(n).0 | 1
    }

    /// Fills what is its own with secrets. Shared pages get what both machines have.
    fn live(&mut self, hardware: &mut Hardware, gp: &mut GpRegs, turn: u64) {
        for n in 0..31 {
            gp.x[n] = self.secret(turn << 8 | n as u64);
        }
        gp.pc = self.secret(turn << 8 | 40) & !3;
        gp.pstate = 0x3C5 | (self.secret(turn << 8 | 41) & 0xF << 28);
        set_el1(&mut hardware.el1, |n| self.secret(turn << 8 | (64 + n)));
        if hardware.world.cptr & CPTR_TFP == 0 {
            for n in 0..32 {
                hardware.fp.v[n] = u128::from(self.secret(turn << 8 | (128 + n as u64)));
            }
        }
        hardware.vgic.vmcr = self.secret(turn << 8 | 42);
        hardware.vgic.ap1r[0] = self.secret(turn << 8 | 43);
        hardware.vtimer = Timer {
            ctl: 0,
            cval: self.secret(turn << 8 | 44),
        };
        for (n, page) in (0_u64..).zip(PAGES) {
            let root = hardware.world.stage2.vttbr;
            let Some(index) = translate(self.machine, root, 1, page << 12) else {
                continue;
            };
            let private = self.entries[index].load(Ordering::Relaxed) & 0x1F == 3;
            let word = (turn * 37 + n * 101) as usize % FRAME_WORDS;
            for word in [0, word, FRAME_WORDS - 1] {
                let value = if private {
                    self.secret(turn << 8 | (200 + n))
                } else {
                    turn
                };
                self.machine.write(index, word, value);
            }
        }
    }

    /// The other VM looks at everything it has.
    fn look(&mut self, hardware: &Hardware, gp: &GpRegs) {
        let mut seen = self.seen.words(gp.x).word(gp.pc).word(gp.pstate);
        seen = seen.words(el1_words(&hardware.el1));
        if hardware.world.cptr & CPTR_TFP == 0 {
            seen = seen.words(
                hardware
                    .fp
                    .v
                    .iter()
                    .flat_map(|v| [*v as u64, (*v >> 64) as u64]),
            );
        }
        seen = seen
            .words(hardware.lrs)
            .word(hardware.vtimer.ctl)
            .word(hardware.vtimer.cval);
        for page in PAGES {
            let root = hardware.world.stage2.vttbr;
            if let Some(index) = translate(self.machine, root, 1, page << 12) {
                let words = self.machine.frame(index).iter();
                seen = seen.words(words.map(|word| word.load(Ordering::Relaxed)));
            }
        }
        self.seen = seen;
    }
}

impl Guest for TwinGuest {
    fn run(&mut self, hardware: &mut Hardware, gp: &mut GpRegs) -> TrapKind {
        let vm = (hardware.world.stage2.vttbr >> 48) as usize - 1;
        let secret = self.is_secret.get(vm).copied().unwrap_or(false);
        self.entered += u64::from(secret);
        let turn = self.script.len() as u64;
        if secret {
            self.live(hardware, gp, turn);
        } else {
            self.look(hardware, gp);
        }
        let hidden = |n| {
            if secret {
                Hash::new(self.secret).word(n).0
            } else {
                n
            }
        };
        match self.script.pop() {
            None => return TrapKind::Interrupt,
            Some(Act::SError) => return TrapKind::SError,
            Some(Act::Timer(ctl, cval)) => {
                hardware.vtimer = Timer { ctl, cval };
                return TrapKind::Interrupt;
            }
            Some(Act::Hvc(x, secret_from)) => {
                hardware.esr = ESR_HVC;
                for (n, value) in x.into_iter().enumerate() {
                    // A boot address keeps its alignment.
                    gp.x[n] = if n < secret_from {
                        value
                    } else {
                        hidden(value) & !3
                    };
                }
            }
            Some(Act::Share(page)) => {
                hardware.esr = ESR_HVC;
                gp.x[..4].copy_from_slice(&[0xC600_0003, page << 12, 0, 0]);
                let root = hardware.world.stage2.vttbr;
                if let Some(index) = translate(self.machine, root, 1, page << 12) {
                    for word in 0..FRAME_WORDS {
                        self.machine.write(index, word, word as u64);
                    }
                }
            }
            Some(Act::Data(esr, page, offset, value)) => {
                hardware.esr = esr;
                hardware.far = hidden(page) << 12 | offset;
                hardware.fault_page = page << 12;
                let bits = 8 << (esr >> 22 & 3);
                let stored = if bits == 64 {
                    value
                } else {
                    (value & ((1 << bits) - 1)) | hidden(value) << bits
                };
                gp.write(esr >> 16 & 0x1F, stored);
            }
            Some(Act::Fetch(esr, page)) => {
                hardware.esr = esr;
                hardware.far = hidden(page) & !3;
                hardware.fault_page = page << 12;
            }
            Some(Act::SysReg(esr, value)) => {
                hardware.esr = esr;
                if let Some(value) = value {
                    gp.write(esr >> 5 & 0x1F, value);
                }
            }
            Some(Act::Other(esr)) => hardware.esr = esr,
            Some(Act::Smc(x0)) => {
                hardware.esr = ESR_SMC;
                gp.x[0] = x0;
            }
        }
        TrapKind::Sync
    }
}
