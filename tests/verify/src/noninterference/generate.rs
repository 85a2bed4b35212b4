//! Sequences of hostile calls: mostly plausible, often off by one, sometimes wild.

use super::Report;
use super::guest::{Act, PAGES};
use super::twin::{Move, SIZE, Twins};
use crate::machine::BASE;
use crate::rng::Rng;
use crate::world::{CPUS, ESR_HVC, ESR_SMC};
use abi::HostCall;

struct Generator<'a> {
    rng: Rng<'a>,
    /// Handles by slot, and those that were.
    handles: [u64; 2],
    stale: [u64; 2],
    is_secret: [bool; 2],
}

/// Runs one sequence on both machines. The error says what was seen, and at which call.
pub(super) fn sequence(twins: &mut Twins, rng: Rng<'_>, report: &mut Report) -> Result<(), String> {
    twins.reset();
    let mut generator = Generator {
        rng,
        handles: [0; 2],
        stale: [0x101, 0x102],
        is_secret: [false; 2],
    };
    let entered = twins.entered();
    let mut history = generator.opening();
    let opening = history.len();
    let length = opening + 20 + generator.rng.below(40) as usize;
    let mut number = 0;
    while number < length {
        if number >= history.len() {
            if generator.rng.is_exhausted() {
                break;
            }
            generator.more(&mut history);
        }
        let (cpu, made) = &history[number];
        report.calls += 1;
        let answer = twins.play(*cpu, made).map_err(|seen| {
            let trail: Vec<String> = history
                .iter()
                .map(|(cpu, made)| format!("  CPU {cpu}: {made:x?}"))
                .collect();
            format!("call {number}: {seen}\n{}", trail.join("\n"))
        })?;
        if let Move::Trap(ESR_HVC, [call, flags, ..], _) = made
            && answer == 0
        {
            report.succeeded += 1;
            if *call == HostCall::VmCreate as u64 {
                let handle = twins.x1(*cpu);
                generator.created(handle, flags & 1 != 0);
                twins.set_secret(generator.is_secret);
                if number < opening {
                    // The opening is about the VM that was just made.
                    history = generator.opening_with(history, number);
                }
            }
        }
        number += 1;
    }
    report.entries += twins.entered() - entered;
    Ok(())
}

const PKVM: [u64; 6] = [
    0x8600_FF01,
    0x8600_0000,
    0xC600_0002,
    0xC600_0003,
    0xC600_0004,
    0xC600_0007,
];
const PSCI: [u64; 14] = [
    0x8400_0000,
    0xC400_0001,
    0x8400_0002,
    0xC400_0003,
    0xC400_0004,
    0x8400_0006,
    0x8400_000A,
    0x8000_0000,
    0x8000_0001,
    0xC400_0003,
    0x8400_0003,
    0x8400_0001,
    0x8400_0008,
    0x8400_0009,
];
/// Frames that the generator likes: the last of the pool, the first of the hostvisor's.
const FIRST: u64 = SIZE.pool as u64;

impl Generator<'_> {
    fn created(&mut self, handle: u64, protected: bool) {
        let slot = (handle & 0xFF) as usize;
        if let Some(own) = self.handles.get_mut(slot) {
            if *own != 0 {
                self.stale[slot] = *own;
            }
            *own = handle;
            self.is_secret[slot] = slot == 0 && protected;
        }
    }

    fn host_call(&self, call: HostCall, x: [u64; 4]) -> (usize, Move) {
        (
            0,
            Move::Trap(ESR_HVC, [call as u64, x[0], x[1], x[2], x[3]], Vec::new()),
        )
    }

    /// A protected VM in the first slot, most of the time at work already.
    fn opening(&mut self) -> Vec<(usize, Move)> {
        let vcpus = 1 + self.rng.below(2);
        let mut moves = vec![self.host_call(HostCall::VmCreate, [1, vcpus, 0, 0])];
        // Filled in when the handle is known.
        moves.extend((0..6 + vcpus).map(|_| (0, Move::Touch(BASE << 12, false))));
        moves
    }

    fn opening_with(&mut self, mut moves: Vec<(usize, Move)>, number: usize) -> Vec<(usize, Move)> {
        let vm = self.handles[0];
        let vcpus = moves.len() as u64 - 7;
        moves.truncate(number + 1);
        moves.push(self.host_call(HostCall::MemDonate, [vm, PAGES[0] << 12, BASE + FIRST, 3]));
        moves.push(self.host_call(
            HostCall::MemDonate,
            [vm, PAGES[4] << 12, BASE + FIRST + 3, 1],
        ));
        for vcpu in 0..vcpus {
            moves.push(self.host_call(
                HostCall::VcpuCreate,
                [vm, vcpu, BASE + FIRST + 10 + vcpu, 0],
            ));
        }
        moves.push(self.host_call(HostCall::VmSetBoot, [vm, PAGES[0] << 12, 7, 0]));
        moves.push(self.host_call(HostCall::VmStart, [vm, 0, 0, 0]));
        let script = self.script(true);
        let run = [HostCall::VcpuRun as u64, vm, 0, 0, 0];
        moves.push((0, Move::Trap(ESR_HVC, run, script)));
        moves.push((0, Move::Touch((BASE + FIRST) << 12, true)));
        moves
    }

    /// One more move, or the end of a VM's life and what a hostvisor may hope to find then.
    fn more(&mut self, history: &mut Vec<(usize, Move)>) {
        if !self.rng.one_in(40) {
            return history.push(self.any());
        }
        let slot = self.rng.below(2) as usize;
        let vm = self.handles[slot];
        let mut add = |call, x| history.push(self.host_call(call, x));
        add(HostCall::VmDestroy, [vm, 0, 0, 0]);
        add(HostCall::MemReclaim, [vm, BASE + FIRST, 3, 0]);
        add(HostCall::MemReclaim, [vm, BASE + FIRST + 3, 9, 0]);
        add(HostCall::VmDestroy, [vm, 0, 0, 0]);
        for frame in FIRST..FIRST + 5 {
            history.push((1, Move::Touch((BASE + frame) << 12, true)));
        }
        if self.rng.one_in(2) {
            history.extend(self.opening());
        }
    }

    fn any(&mut self) -> (usize, Move) {
        let cpu = self.rng.below(CPUS as u64) as usize;
        let made = match self.rng.below(20) {
            0 => Move::Touch(self.address(), self.rng.one_in(2)),
            1 | 2 => self.store(),
            3 => self.smc(),
            4 => {
                // Any other exception of the hostvisor's.
                let esr = self.rng.word() & 0xFFFF_FFFF;
                let esr = if matches!(esr >> 26, 0x16 | 0x17) {
                    esr ^ 1 << 31
                } else {
                    esr
                };
                Move::Trap(esr, core::array::from_fn(|_| self.rng.word()), Vec::new())
            }
            5..=9 => self.run(),
            _ => self.call(),
        };
        (cpu, made)
    }

    fn run(&mut self) -> Move {
        let slot = usize::from(self.rng.one_in(3));
        let vm = if self.rng.one_in(20) {
            self.vm()
        } else {
            self.handles[slot]
        };
        let vcpu = if self.rng.one_in(3) { 1 } else { 0 };
        let script = self.script(self.is_secret[slot]);
        Move::Trap(ESR_HVC, [HostCall::VcpuRun as u64, vm, vcpu, 0, 0], script)
    }

    fn call(&mut self) -> Move {
        let rng = &mut self.rng;
        let number = match rng.below(40) {
            0 => rng.word(),
            1 => abi::hypercall::BASE + rng.below(32),
            _ => rng.pick(HostCall::ALL) as u64,
        };
        let vm = self.vm();
        let count = self.count();
        let (page, pfn) = (self.page(), self.pfn());
        let vcpu = self.small();
        let x = match HostCall::decode(number) {
            Some(HostCall::VmCreate) => {
                [u64::from(!self.rng.one_in(3)), 1 + self.rng.below(2), 0, 0]
            }
            Some(HostCall::VmSetBoot) => [vm, page, self.rng.word(), 0],
            Some(HostCall::MemDonate | HostCall::MemLend) => [vm, page, pfn, count],
            Some(HostCall::MemUnmap) => [vm, page, count, 0],
            Some(HostCall::MemReclaim) => [vm, pfn, count, 0],
            Some(HostCall::VcpuCreate) => [vm, vcpu, pfn, 0],
            Some(HostCall::CoreInfo) => [self.rng.below(12), 0, 0, 0],
            _ => [vm, vcpu, self.rng.below(5), 0],
        };
        let mut x = [number, x[0], x[1], x[2], x[3]];
        if self.rng.one_in(16) {
            let n = 1 + self.rng.below(4) as usize;
            x[n] = self.wild();
        }
        Move::Trap(ESR_HVC, x, Vec::new())
    }

    fn smc(&mut self) -> Move {
        let function = if self.rng.one_in(8) {
            self.rng.word()
        } else {
            self.rng.pick(&PSCI)
        };
        let x = [function, self.small(), self.wild(), self.wild(), 0];
        Move::Trap(ESR_SMC, x, Vec::new())
    }

    fn store(&mut self) -> Move {
        let index = FIRST + self.rng.below(SIZE.frames as u64 - FIRST);
        let word = self.rng.below(22);
        let value = match word {
            0 => self.rng.below(8),
            2 => self.rng.below(6),
            3 => self.rng.below(32),
            16.. => self.list_register(),
            _ => self.wild(),
        };
        Move::Store(index as usize, word as usize, value)
    }

    fn list_register(&mut self) -> u64 {
        let state = self.rng.below(4) << 62;
        let intid = self.rng.pick(&[27, 33, 40, 5, 1019, 1020]);
        let hw = if self.rng.one_in(4) {
            1 << 61 | self.rng.pick(&[27, 30]) << 32
        } else {
            0
        };
        let odd = if self.rng.one_in(8) {
            self.rng.word()
        } else {
            0
        };
        state | 1 << 60 | intid | hw | odd
    }

    fn vm(&mut self) -> u64 {
        match self.rng.below(16) {
            0 => self.wild(),
            1 => self.stale[self.rng.below(2) as usize],
            n => self.handles[(n & 1) as usize],
        }
    }

    fn page(&mut self) -> u64 {
        let page = self.rng.pick(&PAGES) << 12;
        if self.rng.one_in(12) {
            page + self.rng.pick(&[1, 0x800, 0x1000, 1 << 36])
        } else {
            page
        }
    }

    fn pfn(&mut self) -> u64 {
        BASE + self.rng.below(SIZE.frames as u64 + 1)
    }

    fn address(&mut self) -> u64 {
        match self.rng.below(8) {
            0 => self.rng.pick(&[
                0x0808_0000,
                0x080A_0000,
                0x0900_0000,
                1 << 43,
                1 << 44,
                u64::MAX,
            ]),
            1 => self.wild(),
            _ => self.pfn() << 12 | self.rng.below(0x1000),
        }
    }

    fn count(&mut self) -> u64 {
        match self.rng.below(8) {
            0 => self.rng.pick(&[0, 512, 513, 1 << 24, u64::MAX]),
            n => 1 + n % 3,
        }
    }

    fn small(&mut self) -> u64 {
        if self.rng.one_in(16) {
            self.wild()
        } else {
            self.rng.below(3)
        }
    }

    fn wild(&mut self) -> u64 {
        match self.rng.below(4) {
            0 => self.rng.word(),
            1 => u64::MAX - self.rng.below(3),
            2 => 1 << self.rng.below(64),
            _ => self.rng.below(64),
        }
    }

    /// What a guest does, last first. A protected VM does not pass secrets out; the other does anything.
    fn script(&mut self, secret: bool) -> Vec<Act> {
        (0..self.rng.below(4)).map(|_| self.act(secret)).collect()
    }

    fn act(&mut self, secret: bool) -> Act {
        let page = self.rng.pick(&PAGES);
        match self.rng.below(16) {
            0 | 1 => Act::Share(page),
            2 => Act::Hvc([0xC600_0004, page << 12, 0, 0], 4),
            3 => {
                let function = self.rng.pick(&PKVM);
                if function == 0xC600_0003 {
                    Act::Share(page)
                } else {
                    Act::Hvc([function, page << 12, 0, 0], 4)
                }
            }
            4 => {
                // Ending the VM is rare.
                let kinds = if self.rng.one_in(10) {
                    PSCI.len()
                } else {
                    PSCI.len() - 2
                };
                let function = PSCI[self.rng.below(kinds as u64) as usize];
                Act::Hvc([function, self.rng.below(3), 0x1000, 9], 2)
            }
            5 | 6 => {
                let write = self.rng.below(2) << 6;
                let rt = self.rng.below(32) << 16;
                let rest =
                    self.rng.below(4) << 22 | self.rng.below(2) << 21 | self.rng.below(2) << 15;
                let valid = u64::from(!self.rng.one_in(6)) << 24;
                let fault = self
                    .rng
                    .pick(&[0x04, 0x05, 0x06, 0x07, 0x07, 0x07, 0x0F, 0x10, 0x87]);
                let page = self.rng.pick(&[page, 0x9000, 0x8000]);
                let esr = 0x24 << 26 | 1 << 25 | valid | rest | rt | write | fault;
                Act::Data(esr, page, self.rng.below(0x1000), self.rng.word())
            }
            7 => Act::Fetch(
                0x20 << 26 | 1 << 25 | self.rng.pick(&[0x07, 0x06, 0x0F, 0x10]),
                page,
            ),
            8 => {
                let esr = 0x18 << 26 | 1 << 25 | (self.rng.word() & 0x1FF_FFFF);
                self.sys_reg(esr)
            }
            9 => {
                // ICC_SGI1R_EL1, ICC_SGI0R_EL1, CNTP_TVAL, CNTP_CTL, CNTP_CVAL, MDSCR_EL1 and an ID register.
                let (op0, op1, crn, crm, op2) = self.rng.pick(&[
                    (3, 0, 12, 11, 5),
                    (3, 0, 12, 11, 7),
                    (3, 3, 14, 2, 0),
                    (3, 3, 14, 2, 1),
                    (3, 3, 14, 2, 2),
                    (2, 0, 0, 2, 2),
                    (3, 0, 0, 4, 0),
                ]);
                let register = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1;
                let rest = self.rng.below(32) << 5 | self.rng.below(2);
                self.sys_reg(0x18 << 26 | 1 << 25 | register | rest)
            }
            10 | 11 => Act::Other(0x07 << 26 | 1 << 25), // FP/SIMD
            12 => Act::Timer(self.rng.pick(&[1, 1, 5]), self.rng.below(4000)),
            13 => Act::Other(0x01 << 26 | 1 << 25 | self.rng.below(2)),
            14 if !secret => {
                let class = self.rng.below(64) << 26;
                Act::Other(class | (self.rng.word() & 0x3FF_FFFF))
            }
            14 => Act::Smc(self.rng.word()),
            _ => Act::SError,
        }
    }

    /// SGIs and timers go out; whatever else is written does not.
    fn sys_reg(&mut self, esr: u64) -> Act {
        let (crn, crm) = (esr >> 10 & 0xF, esr >> 1 & 0xF);
        let passed = matches!((crn, crm), (12, 11) | (14, 2));
        let value = self.rng.below(8000);
        Act::SysReg(esr, passed.then_some(value))
    }
}
