//! Guests' own calls: what each must answer, from `docs/hypercalls/guest.md`, and a witness in the guest that
//! looks at the machine before a call and after it. Shares nothing with the code under test.

use super::snapshot::Snapshot;
use super::{FIRST, PAGES, SIZE};
use crate::cpu::{Guest, Hardware};
use crate::machine::Fault;
use crate::rng::Rng;
use crate::world::{CPUS, ESR_HVC, Static, VM_OUTER, WorldCpu, boot, vm_words};
use abi::HostCall;
use arch::context::GpRegs;
use arch::hal::TrapKind;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// PSCI.
const VERSION: u32 = 0x8400_0000;
const CPU_SUSPEND: u32 = 0x8400_0001;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const FEATURES: u32 = 0x8400_000A;
/// Set in the number of a function that takes 64-bit arguments.
const WIDE: u32 = 1 << 30;
/// SMCCC.
const SMCCC_VERSION: u32 = 0x8000_0000;
const ARCH_FEATURES: u32 = 0x8000_0001;
/// The pKVM guest interface.
const UID: u32 = 0x8600_FF01;
const KVM_FEATURES: u32 = 0x8600_0000;
const MEMINFO: u32 = 0xC600_0002;
const SHARE: u32 = 0xC600_0003;
const UNSHARE: u32 = 0xC600_0004;
const MMIO_GUARD: u32 = 0xC600_0007;

const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
/// SMCCC's, one beside PSCI's.
const INVALID_PARAMETER: i64 = -3;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
const INVALID_ADDRESS: i64 = -9;

/// Pages that a VM may name as devices'.
const MMIO_PAGES: u64 = 256;
const IPA_LIMIT: u64 = 1 << 36;
const BUSY: u64 = 1 << 4;

/// Calls as often as they should come: those that end a VM or a vCPU seldom.
const MOSTLY: [u32; 24] = [
    VERSION,
    CPU_OFF,
    CPU_ON,
    CPU_ON | WIDE,
    CPU_ON | WIDE,
    CPU_ON | WIDE,
    AFFINITY_INFO,
    AFFINITY_INFO | WIDE,
    AFFINITY_INFO | WIDE,
    MIGRATE_INFO_TYPE,
    FEATURES,
    SMCCC_VERSION,
    ARCH_FEATURES,
    UID,
    KVM_FEATURES,
    MEMINFO,
    SHARE,
    SHARE,
    SHARE,
    UNSHARE,
    UNSHARE,
    MMIO_GUARD,
    MMIO_GUARD,
    CPU_SUSPEND,
];

/// How a walk goes wrong on purpose, to show that it would be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seeded {
    /// Not at all.
    Nothing,
    /// After a refused call a word of memory is another one.
    Memory,
    /// A refused call answers SUCCESS.
    Answer,
}

/// How often what was answered: by function and error, `None` for success.
pub type Answers = BTreeMap<(u32, Option<i64>), u64>;

/// A VM, protected if `seed` is even, with a vCPU that is on, one that is off and none beyond; `runs` times one of
/// them is let in and calls. The error says which call answered or changed what.
///
/// # Errors
///
/// A call did not do what its document says.
pub fn walk(seed: u64, runs: u64, seeded: Seeded, answers: &mut Answers) -> Result<(), String> {
    let (world, mut cpus) = boot(
        SIZE,
        &[],
        Fault::None,
        [(); CPUS].map(|()| Caller::default()),
    );
    let mut rng = Rng::Seed(seed);
    let vm = build(&world, &mut cpus[0], seed.is_multiple_of(2));
    for cpu in &mut cpus {
        cpu.cpu.guest.witness = Some(Witness::new(world, seeded));
    }
    let end = (0..runs).try_for_each(|n| {
        let cpu = &mut cpus[rng.below(CPUS as u64) as usize];
        cpu.cpu.guest.calls = (0..rng.below(8)).map(|_| call(&mut rng)).collect();
        // One that another CPU is at work on meanwhile.
        let entries = world.entries.iter();
        let mut owned = entries.filter(|entry| entry.load(Ordering::Relaxed) & 0xF >= 3);
        let busy = owned.nth(rng.below(8) as usize);
        busy.inspect(|entry| _ = entry.fetch_or(BUSY, Ordering::Relaxed));
        // A vCPU that is off is refused.
        cpu.call(world.core, HostCall::VcpuRun, [vm, rng.below(2), 0, 0]);
        busy.inspect(|entry| _ = entry.fetch_and(!BUSY, Ordering::Relaxed));
        let witness = cpu.cpu.guest.witness.as_mut();
        witness
            .map_or(Ok(()), Witness::verdict)
            .map_err(|what| format!("seed {seed}, run {n}: {what}"))
    });
    for witness in cpus.iter().filter_map(|cpu| cpu.cpu.guest.witness.as_ref()) {
        for (key, times) in &witness.answers {
            *answers.entry(*key).or_default() += times;
        }
    }
    end
}

/// Makes the VM; answers its handle.
fn build(world: &Static, cpu: &mut WorldCpu<Caller>, protected: bool) -> u64 {
    let mut call = |call, args| {
        let [error, answer, ..] = cpu.call(world.core, call, args);
        assert_eq!(error, 0, "{call:?} of a VM to be");
        answer
    };
    let vm = call(HostCall::VmCreate, [protected.into(), 3, 0, 0]);
    let give = if protected {
        HostCall::MemDonate
    } else {
        HostCall::MemLend
    };
    for (page, pfn) in PAGES.into_iter().take(4).zip(FIRST..) {
        call(give, [vm, page << 12, pfn, 1]);
    }
    for index in 0..2 {
        call(HostCall::VcpuCreate, [vm, index, FIRST + 8 + index, 0]);
    }
    call(HostCall::VmSetBoot, [vm, PAGES[0] << 12, 0, 0]);
    call(HostCall::VmStart, [vm, 0, 0, 0]);
    vm
}

/// A guest that makes its calls, last first, until an interrupt.
#[derive(Default)]
struct Caller {
    calls: Vec<[u64; 4]>,
    /// Once there is a machine to look at.
    witness: Option<Witness>,
}

impl Guest for Caller {
    fn run(&mut self, hardware: &mut Hardware, gp: &mut GpRegs) -> TrapKind {
        if let Some(witness) = &mut self.witness {
            witness.looks(hardware, gp);
        }
        let Some(x) = self.calls.pop() else {
            return TrapKind::Interrupt;
        };
        hardware.esr = ESR_HVC;
        gp.x[..4].copy_from_slice(&x);
        if let Some(witness) = &mut self.witness {
            witness.asks(hardware, gp);
        }
        TrapKind::Sync
    }
}

/// x0 to x3 of some call.
fn call(rng: &mut Rng<'_>) -> [u64; 4] {
    let function = match rng.below(256) {
        0 => SYSTEM_OFF,
        1 => SYSTEM_RESET,
        2..=9 => rng.word() as u32,
        10..=17 => 0x8400_000B + rng.below(64) as u32,
        18..=25 => rng.pick(&[0xC400_0005, 0xC600_0008]) + rng.below(64) as u32,
        _ => rng.pick(&MOSTLY),
    };
    let page = rng.pick(&PAGES) << 12;
    let (a, b, c) = match function & !WIDE {
        CPU_ON => (vcpu(rng), 0x4000_0000 + rng.pick(&[0, 0, 0, 2]), rng.word()),
        AFFINITY_INFO => (vcpu(rng), rng.pick(&[0, 0, 0, 1]), 0),
        FEATURES | ARCH_FEATURES => (u64::from(rng.pick(&MOSTLY)), 0, 0),
        _ => match function {
            SHARE | UNSHARE => (page, 0, 0),
            MMIO_GUARD => (rng.pick(&[page, 0x0900_0000]), 0, 0),
            _ => (0, 0, 0),
        },
    };
    let mut x = [u64::from(function), a, b, c];
    if rng.one_in(6) {
        let bit = 1 << rng.below(64);
        x[rng.below(4) as usize] ^= bit;
    }
    x
}

/// An MPIDR.
fn vcpu(rng: &mut Rng<'_>) -> u64 {
    rng.pick(&[0, 0, 1, 1, 2, 0x100, 0x10, 1 << 31])
}

/// What the guest must find in x0 to x3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// This.
    Answer([u64; 4]),
    /// This, after a change; or that, with nothing changed, since table frames have run out.
    DoneIfPoolLasts([u64; 4], [u64; 4]),
    /// This, after a change.
    Done([u64; 4]),
    /// The hostvisor goes on.
    Leaves,
}

struct Asked {
    x: [u64; 4],
    expected: Expected,
    guarding: Option<usize>,
    before: Snapshot,
}

/// Looks at the machine from inside a guest.
struct Witness {
    world: Static,
    seeded: Seeded,
    asked: Option<Asked>,
    answers: Answers,
    wrong: Option<String>,
}

impl Witness {
    fn new(world: Static, seeded: Seeded) -> Self {
        Self {
            world,
            seeded,
            asked: None,
            answers: Answers::new(),
            wrong: None,
        }
    }

    /// The guest that runs is going to call.
    fn asks(&mut self, hardware: &Hardware, gp: &GpRegs) {
        let x = [gp.x[0], gp.x[1], gp.x[2], gp.x[3]];
        let vm = self.vm(hardware);
        let guarding = (x[0] as u32 == MMIO_GUARD).then_some(vm);
        self.asked = Some(Asked {
            x,
            expected: self.expected(vm, x),
            guarding,
            before: self.snapshot(guarding, hardware, gp),
        });
    }

    /// A guest runs, or goes on after its call.
    fn looks(&mut self, hardware: &Hardware, gp: &GpRegs) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        let mut answer = [gp.x[0], gp.x[1], gp.x[2], gp.x[3]];
        let refused = |answer: [u64; 4]| answer[0].cast_signed() < 0;
        if refused(answer) {
            match self.seeded {
                Seeded::Memory => self.world.machine.write(20, 511, !0),
                Seeded::Answer => answer[0] = 0,
                Seeded::Nothing => {}
            }
        }
        let code = answer[0].cast_signed();
        let key = (asked.x[0] as u32, (code < 0).then_some(code));
        *self.answers.entry(key).or_default() += 1;
        let changes = match asked.expected {
            Expected::Answer(right) if answer == right => false,
            Expected::Done(right) if answer == right => true,
            Expected::DoneIfPoolLasts(right, _) if answer == right => true,
            Expected::DoneIfPoolLasts(_, right) if answer == right => false,
            expected => {
                let what = format!(
                    "{:x?} answered {answer:x?}, expected {expected:x?}",
                    asked.x
                );
                self.wrong.get_or_insert(what);
                return;
            }
        };
        if changes {
            return;
        }
        let after = self.snapshot(asked.guarding, hardware, gp);
        if let Err(what) = asked.before.compare(&after) {
            let what = format!("{:x?} answered {answer:x?} and changed {what}", asked.x);
            self.wrong.get_or_insert(what);
        }
    }

    /// The guest's world is left: what it asked last was no call, or has taken it out.
    fn verdict(&mut self) -> Result<(), String> {
        if let Some(asked) = self.asked.take() {
            *self.answers.entry((asked.x[0] as u32, None)).or_default() += 1;
            if asked.expected != Expected::Leaves {
                let what = format!("{:x?} left, expected {:x?}", asked.x, asked.expected);
                self.wrong.get_or_insert(what);
            }
        }
        self.wrong
            .take()
            .map_or(Ok(()), |what| Err(format!("a guest's {what}")))
    }

    fn snapshot(&self, guarding: Option<usize>, hardware: &Hardware, gp: &GpRegs) -> Snapshot {
        let mut snapshot = Snapshot::from_inside(&self.world, guarding);
        let (mut hardware, mut gp) = (hardware.clone(), gp.clone());
        gp.x[..4].fill(0);
        hardware.esr = 0;
        snapshot.cpus = vec![format!("{gp:x?} {hardware:x?}")];
        snapshot
    }

    /// Slot of the VM whose table is loaded.
    fn vm(&self, hardware: &Hardware) -> usize {
        let loaded = |vm: &usize| self.words(*vm)[2] == hardware.world.stage2.vttbr;
        (0..self.world.size.vms).find(loaded).expect("a VM runs")
    }

    fn words(&self, vm: usize) -> Vec<u64> {
        vm_words(self.world.vm(vm)).to_vec()
    }

    /// The power (0 off, 1 asked for, 2 on) of the vCPU of `vm` that this MPIDR names.
    fn power(&self, vm: usize, mpidr: u64) -> Option<u64> {
        let (aff0, aff1) = (mpidr & 0xFF, mpidr >> 8);
        let index = (aff0 < 16 && aff1 == 0).then_some(aff0 as usize)?;
        let slot = self.words(vm)[6 + index].checked_sub(1)?;
        Some(self.world.core.vcpus[slot as usize].words()[2])
    }

    /// State of the frame that `vm` maps at `page`, unless another CPU is changing it.
    fn mapped(&self, vm: usize, page: u64) -> Option<u64> {
        let words = self.world.entries.iter().map(|e| e.load(Ordering::Relaxed));
        let mut of_vm = words.filter(|word| {
            word & 0xF >= 3 && word >> 16 & 0xFFFF == vm as u64 + 1 && word >> 32 == page
        });
        of_vm.next().map(|word| word & (BUSY | 0xF))
    }

    fn expected(&self, vm: usize, x: [u64; 4]) -> Expected {
        let function = x[0] as u32;
        let wide = function & WIDE != 0;
        let arg = |n: usize| if wide { x[n] } else { x[n] & 0xFFFF_FFFF };
        let answer = |value: i64| Expected::Answer([value.cast_unsigned(), x[1], x[2], x[3]]);
        match function {
            VERSION | SMCCC_VERSION => answer(0x1_0001),
            MIGRATE_INFO_TYPE => answer(2),
            CPU_OFF | SYSTEM_OFF | SYSTEM_RESET => Expected::Leaves,
            _ if function & !WIDE == CPU_SUSPEND => Expected::Leaves,
            _ if function & !WIDE == CPU_ON => match self.power(vm, arg(1)) {
                None => answer(INVALID_PARAMETERS),
                Some(_) if arg(2) % 4 != 0 => answer(INVALID_ADDRESS),
                Some(0) => Expected::Leaves,
                Some(1) => answer(ON_PENDING),
                Some(_) => answer(ALREADY_ON),
            },
            _ if function & !WIDE == AFFINITY_INFO => match self.power(vm, arg(1)) {
                Some(power) if arg(2) == 0 => answer([1, 2, 0][power as usize]),
                _ => answer(INVALID_PARAMETERS),
            },
            FEATURES => answer(match arg(1) as u32 {
                VERSION | CPU_OFF | MIGRATE_INFO_TYPE | SYSTEM_OFF | SYSTEM_RESET | FEATURES
                | SMCCC_VERSION => 0,
                other if [CPU_SUSPEND, CPU_ON, AFFINITY_INFO].contains(&(other & !WIDE)) => 0,
                _ => NOT_SUPPORTED,
            }),
            ARCH_FEATURES => answer(match arg(1) as u32 {
                SMCCC_VERSION | ARCH_FEATURES => 0,
                _ => NOT_SUPPORTED,
            }),
            UID | KVM_FEATURES | MEMINFO | SHARE | UNSHARE | MMIO_GUARD
                if self.words(vm)[VM_OUTER + 4] != 0 =>
            {
                self.pkvm(vm, x)
            }
            _ => answer(NOT_SUPPORTED),
        }
    }

    /// The pKVM guest interface, in a protected VM.
    fn pkvm(&self, vm: usize, [function, ipa, b, c]: [u64; 4]) -> Expected {
        const DONE: [u64; 4] = [0; 4];
        const REFUSED: [u64; 4] = [INVALID_PARAMETER.cast_unsigned(), 0, 0, 0];
        let refused = Expected::Answer(REFUSED);
        let page = (ipa % 4096 == 0 && ipa < IPA_LIMIT).then_some(ipa >> 12);
        let state = page.and_then(|page| self.mapped(vm, page));
        match function as u32 {
            UID => Expected::Answer([0xB66F_B428, 0xE911_C52E, 0x564B_CAA9, 0x743A_004D]),
            KVM_FEATURES => Expected::Answer([0b1001_1101, 0, 0, 0]),
            MEMINFO if (ipa, b, c) == (0, 0, 0) => Expected::Answer([4096, 0, 0, 0]),
            SHARE if (b, c, state) == (0, 0, Some(3)) => Expected::Done(DONE),
            UNSHARE if (b, c, state) == (0, 0, Some(4)) => Expected::Done(DONE),
            MMIO_GUARD if page.is_some() && state.is_none() => {
                if self.words(vm)[VM_OUTER + 9] < MMIO_PAGES {
                    Expected::DoneIfPoolLasts(DONE, REFUSED)
                } else {
                    refused
                }
            }
            _ => refused,
        }
    }
}
