//! The hostvisor's SMCs: what each must answer, from `docs/hypercalls/host-smc.md`, with the machine afterwards as
//! before in every word but x0, PC and the power of the CPU that it starts.

use super::guest::Seeded;
use super::snapshot::Snapshot;
use super::{Answers, SIZE, Scripted, cpu_text};
use crate::machine::Fault;
use crate::rng::Rng;
use crate::world::{CPUS, ESR_SMC, Static, WorldCpu, boot};
use std::sync::atomic::Ordering;

const VERSION: u32 = 0x8400_0000;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0xC400_0003;
const AFFINITY_INFO: u32 = 0xC400_0004;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const FEATURES: u32 = 0x8400_000A;
const SMCCC_VERSION: u32 = 0x8000_0000;
/// All that there is.
const KNOWN: [u32; 9] = [
    VERSION,
    CPU_OFF,
    CPU_ON,
    AFFINITY_INFO,
    MIGRATE_INFO_TYPE,
    SYSTEM_OFF,
    SYSTEM_RESET,
    FEATURES,
    SMCCC_VERSION,
];

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const DENIED: i64 = -3;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
const INTERNAL_FAILURE: i64 = -6;
const INVALID_ADDRESS: i64 = -9;

/// As AFFINITY_INFO has them.
const ON: i64 = 0;
const OFF: i64 = 1;
const PENDING: i64 = 2;

/// What the hostvisor must find.
struct Expected {
    answer: i64,
    /// The CPU that is on its way from now on.
    starts: Option<usize>,
}

struct Walk<'a> {
    rng: Rng<'a>,
    world: Static,
    cpus: [WorldCpu<Scripted>; CPUS],
    /// Power of each.
    power: [i64; CPUS],
}

/// `steps` SMCs, on machines whose firmware starts CPUs or not, while other CPUs come and go. The error says which
/// call answered or changed what.
///
/// # Errors
///
/// A call did not do what its document says.
pub fn walk(seed: u64, steps: u64, seeded: Seeded, answers: &mut Answers) -> Result<(), String> {
    let guests = [(); CPUS].map(|()| Scripted(Vec::new()));
    let (world, cpus) = boot(SIZE, &[], Fault::None, guests);
    let mut walk = Walk {
        rng: Rng::Seed(seed),
        world,
        cpus,
        power: [ON; CPUS],
    };
    (0..steps).try_for_each(|n| {
        let step = walk.step(seeded, answers);
        step.map_err(|what| format!("seed {seed}, SMC {n}: {what}"))
    })
}

impl Walk<'_> {
    fn step(&mut self, seeded: Seeded, answers: &mut Answers) -> Result<(), String> {
        let cpu = self.rng.below(CPUS as u64) as usize;
        self.others(cpu);
        let firmware = self.rng.pick(&[SUCCESS, DENIED, INTERNAL_FAILURE]);
        let memory = self.world.machine;
        memory.firmware.store(firmware, Ordering::Relaxed);
        let x = self.call();
        let esr = ESR_SMC | self.rng.pick(&[0, 0, 1, 0xFFFF]);
        let expected = self.expected(x, firmware);
        let pc = self.cpus[cpu].state.host.pc;
        let before = self.snapshot();
        let mut answer = self.cpus[cpu].trap(self.world.core, esr, x);
        let code = answer[0].cast_signed();
        if code < 0 {
            match seeded {
                Seeded::Memory => memory.write(20, 511, !0),
                Seeded::Answer => answer[0] = 0,
                Seeded::Nothing => {}
            }
        }
        let key = (Some(u64::from(x[0] as u32)), (code < 0).then_some(code));
        *answers.entry(key).or_default() += 1;
        let told = |what: &str| Err(format!("{x:x?} on CPU {cpu}: {what}"));
        if answer[0].cast_signed() != expected.answer {
            return told(&format!("answered {code}, expected {}", expected.answer));
        }
        if answer[1..] != x[1..] {
            return told("changed x1 to x4");
        }
        if self.cpus[cpu].state.host.pc != pc + 4 {
            return told("does not go on behind the instruction");
        }
        self.cpus[cpu].state.host.pc = pc;
        if let Err(what) = before.compare(&self.snapshot()) {
            return told(&format!("changed {what}"));
        }
        if let Some(started) = expected.starts {
            self.power[started] = PENDING;
        }
        let shown = self.power();
        if shown != self.power {
            return told(&format!("power {shown:?}, expected {:?}", self.power));
        }
        if let Some(started) = expected.starts.filter(|_| self.rng.one_in(2)) {
            let entry = self.world.core.cpus[started].arrive();
            self.power[started] = ON;
            if (entry.pc, entry.x) != (x[2], [x[3], 0, 0, 0, 0]) {
                return told(&format!("starts with {entry:x?}"));
            }
        }
        Ok(())
    }

    /// CPUs go off, and those on their way arrive.
    fn others(&mut self, calling: usize) {
        for cpu in (0..CPUS).filter(|cpu| *cpu != calling) {
            let power = &self.world.core.cpus[cpu];
            match self.power[cpu] {
                ON if self.rng.one_in(2) => {
                    power.off();
                    self.power[cpu] = OFF;
                }
                PENDING if self.rng.one_in(4) => {
                    power.arrive();
                    self.power[cpu] = ON;
                }
                _ => {}
            }
        }
        // Who calls is on.
        self.world.core.cpus[calling].stay_on();
        self.power[calling] = ON;
    }

    fn call(&mut self) -> [u64; 5] {
        let mpidr = self.rng.pick(&[0, 1, 1, 0, 2, 0x100, 1 << 31, 1 << 32]);
        let (function, a, b) = match self.rng.below(8) {
            0 => (self.rng.word() as u32, mpidr, 0),
            // Neighbours of all kinds, the 32-bit forms among them.
            1 => (self.rng.pick(&KNOWN) ^ 1 << self.rng.below(32), mpidr, 0),
            2 | 3 => (CPU_ON, mpidr, 0x4000_0000 + self.rng.pick(&[0, 0, 1, 2])),
            4 => (AFFINITY_INFO, mpidr, self.rng.pick(&[0, 0, 1, 1 << 32])),
            5 => (FEATURES, self.rng.pick(&KNOWN).into(), 0),
            _ => (self.rng.pick(&KNOWN), mpidr, self.rng.word()),
        };
        let mut x = [u64::from(function), a, b, self.rng.word(), self.rng.word()];
        if self.rng.one_in(8) {
            x[self.rng.below(4) as usize] ^= 1 << self.rng.below(64);
        }
        x
    }

    fn expected(&self, x: [u64; 5], firmware: i64) -> Expected {
        let answer = |answer| Expected {
            answer,
            starts: None,
        };
        let target = (x[1] < CPUS as u64).then_some(x[1] as usize);
        match x[0] as u32 {
            VERSION | SMCCC_VERSION => answer(0x1_0001),
            MIGRATE_INFO_TYPE => answer(2),
            FEATURES if KNOWN.contains(&(x[1] as u32)) => answer(SUCCESS),
            AFFINITY_INFO => answer(match target {
                Some(cpu) if x[2] == 0 => self.power[cpu],
                _ => INVALID_PARAMETERS,
            }),
            CPU_ON => match target {
                None => answer(INVALID_PARAMETERS),
                Some(_) if !x[2].is_multiple_of(4) => answer(INVALID_ADDRESS),
                Some(cpu) if self.power[cpu] == ON => answer(ALREADY_ON),
                Some(cpu) if self.power[cpu] == PENDING => answer(ON_PENDING),
                Some(cpu) => Expected {
                    answer: firmware,
                    starts: (firmware == SUCCESS).then_some(cpu),
                },
            },
            // Here the firmware comes back.
            CPU_OFF | SYSTEM_OFF | SYSTEM_RESET => answer(firmware),
            _ => answer(NOT_SUPPORTED),
        }
    }

    fn power(&self) -> [i64; CPUS] {
        core::array::from_fn(|cpu| self.world.core.cpus[cpu].affinity_info())
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new(&self.world);
        snapshot.cpus = self.cpus.iter().map(cpu_text).collect();
        snapshot
    }
}
