//! Every wrong argument of every hypercall gets its documented error and changes nothing.
//!
//! Random walks over a small machine: calls on two CPUs, guests that use FP/SIMD, share pages, start each other
//! and end, run pages with anything in them, frames and vCPUs that another CPU is at work on. Each call is
//! first looked up in an independent [`table`] of what the documents say. It must answer just that: the
//! error, with the machine afterwards as before in every word, or success. Guests' own calls and the
//! hostvisor's SMCs have walks of their own ([`guest`], [`smc`]).

pub mod guest;
pub mod smc;
mod snapshot;
mod table;

use crate::cpu::{Guest, Hardware};
use crate::machine::{BASE, Fault};
use crate::rng::Rng;
use crate::world::{CPUS, ESR_HVC, Size, Static, WorldCpu, boot, cpu_words, vcpu_words, vm_words};
use abi::{Error, HostCall};
use arch::context::GpRegs;
use arch::hal::TrapKind;
use snapshot::Snapshot;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use table::{Verdict, View};

const SIZE: Size = Size {
    frames: 34,
    pool: 14,
    vms: 3,
    vcpus: 4,
};
/// First frame of the hostvisor's.
const FIRST: u64 = BASE + SIZE.pool as u64;
/// Pages that calls are mostly about: neighbours, the next 2 MiB, the last of all.
const PAGES: [u64; 5] = [0x4_0000, 0x4_0001, 0x4_0002, 0x4_0200, 0xFF_FFFF];
const BUSY: u64 = 1 << 4;
/// Calls as often as they should come, so that VMs live long enough for all that can go wrong in a life.
const MOSTLY: [HostCall; 40] = {
    use HostCall::{
        CoreInfo, MemDonate, MemLend, MemReclaim, MemUnmap, VcpuCreate, VcpuPut, VcpuRun,
    };
    use HostCall::{VcpuStat, VmCreate, VmDestroy, VmSetBoot, VmStart};
    [
        CoreInfo, VmCreate, VmCreate, VmSetBoot, VmSetBoot, VmSetBoot, VmStart, VmStart, VmDestroy,
        MemDonate, MemDonate, MemDonate, MemDonate, MemLend, MemLend, MemLend, MemLend, MemUnmap,
        MemUnmap, MemUnmap, MemReclaim, MemReclaim, MemReclaim, VcpuCreate, VcpuCreate, VcpuCreate,
        VcpuCreate, VcpuRun, VcpuRun, VcpuRun, VcpuRun, VcpuRun, VcpuRun, VcpuRun, VcpuRun,
        VcpuRun, VcpuPut, VcpuPut, VcpuPut, VcpuStat,
    ]
};

/// How a walk goes wrong on purpose, to show that it would be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seeded {
    /// Not at all.
    Nothing,
    /// After a refused call a word of memory is another one.
    Memory,
    /// After a refused call a frame is in another state.
    Frame,
    /// After a refused call the hostvisor has another EL1 register.
    Register,
    /// DENIED is answered as INVALID.
    Error,
}

/// How often what was answered: by number of the call and error, `None` for success.
pub type Answers = BTreeMap<(Option<u64>, Option<i64>), u64>;

/// A guest that does what its script says, last first, until an interrupt.
struct Scripted(Vec<(u64, [u64; 4])>);

impl Guest for Scripted {
    fn run(&mut self, hardware: &mut Hardware, gp: &mut GpRegs) -> TrapKind {
        let Some((esr, x)) = self.0.pop() else {
            return TrapKind::Interrupt;
        };
        hardware.esr = esr;
        hardware.fault_page = x[1] & !0xFFF;
        gp.x[..4].copy_from_slice(&x);
        TrapKind::Sync
    }
}

struct Walk<'a> {
    rng: Rng<'a>,
    world: Static,
    cpus: [WorldCpu<Scripted>; CPUS],
    /// Handles that were good once.
    handles: Vec<u64>,
}

/// Walks `steps` calls from boot. The error says which call answered or changed what.
///
/// # Errors
///
/// A call did not do what its document says.
pub fn walk(seed: u64, steps: u64, seeded: Seeded, answers: &mut Answers) -> Result<(), String> {
    let (world, cpus) = boot(
        SIZE,
        &[],
        Fault::None,
        [(); CPUS].map(|()| Scripted(Vec::new())),
    );
    let mut walk = Walk {
        rng: Rng::Seed(seed),
        world,
        cpus,
        handles: Vec::new(),
    };
    (0..steps).try_for_each(|n| {
        let step = walk.step(seeded, answers);
        step.map_err(|what| format!("seed {seed}, call {n}: {what}"))
    })
}

impl Walk<'_> {
    fn step(&mut self, seeded: Seeded, answers: &mut Answers) -> Result<(), String> {
        let cpu = self.rng.below(CPUS as u64) as usize;
        self.scribble();
        let x = self.call();
        self.cpus[cpu].cpu.guest.0 = self.script();
        // What another CPU is at work on meanwhile. (A vCPU that is not in use is never held for long.)
        let busy = self.rng.one_in(8).then(|| self.frame_in_use(x));
        let held = self
            .rng
            .one_in(8)
            .then(|| self.rng.below(SIZE.vcpus as u64) as usize);
        let held = held.filter(|slot| vcpu_words(&self.world.core.vcpus[*slot])[0] != 0);
        let busy = busy.flatten().inspect(|index| {
            self.world.entries[*index].fetch_or(BUSY, Ordering::Relaxed);
        });
        let before = self.snapshot();
        let expected = View::new(&self.world, held).verdict(cpu, x);
        let guard = held.map(|slot| self.world.core.vcpus[slot].try_lock());
        let answer = self.cpus[cpu].trap(self.world.core, ESR_HVC, x);
        drop(guard);
        if answer[0] != 0 {
            self.spoil(seeded);
        }
        let after = self.snapshot();
        if let Some(index) = busy {
            self.world.entries[index].fetch_and(!BUSY, Ordering::Relaxed);
        }
        let mut code = answer[0].cast_signed();
        if seeded == Seeded::Error && code == Error::Denied.code() {
            code = Error::Invalid.code();
        }
        let call = HostCall::decode(x[0]);
        let told = || {
            format!("{call:?} {x:x?} on CPU {cpu}, vCPU slot {held:?} held, frame {busy:?} busy")
        };
        *answers
            .entry((call.map(|c| c as u64), (code != 0).then_some(code)))
            .or_default() += 1;
        let right = match expected {
            Verdict::Refused(error) => code == error.code(),
            Verdict::Done => code == 0 || more_to_do(call, code),
            Verdict::DoneIfPoolLasts => {
                code == 0
                    || code == Error::NoMemory.code()
                    || busy.is_some() && code == Error::Busy.code()
            }
        };
        if !right {
            return Err(format!("{} answered {code}, expected {expected:?}", told()));
        }
        if code != 0 {
            if answer[1..] != x[1..] {
                return Err(format!("{} changed x1 to x4", told()));
            }
            // These two are in steps, and say so.
            if call != Some(HostCall::VmDestroy)
                && !(call == Some(HostCall::VmStart) && code == Error::Busy.code())
            {
                before
                    .compare(&after)
                    .map_err(|what| format!("{} answered {code} and changed {what}", told()))?;
            }
        } else if call == Some(HostCall::VmCreate) {
            self.handles.push(answer[1]);
        }
        Ok(())
    }

    /// A bug of ours, put in.
    fn spoil(&mut self, seeded: Seeded) {
        match seeded {
            Seeded::Memory => self.world.machine.write(20, 511, self.rng.word()),
            Seeded::Frame => {
                self.world.entries[33].fetch_xor(1, Ordering::Relaxed);
            }
            Seeded::Register => self.cpus[1].cpu.hardware.el1.csselr ^= 1,
            Seeded::Nothing | Seeded::Error => {}
        }
    }

    /// The hostvisor writes into run pages.
    fn scribble(&mut self) {
        for _ in 0..self.rng.below(3) {
            let slot = self.rng.below(SIZE.vcpus as u64) as usize;
            let words = vcpu_words(&self.world.core.vcpus[slot]);
            if words[0] == 0 {
                continue;
            }
            let (word, value) = match self.rng.below(6) {
                0 => (0, self.rng.below(10)),
                1 => (2, self.rng.below(6)),
                2 => (3, self.wild()),
                3 => (0, 0),
                4 => (2, 0),
                _ => (16 + self.rng.below(4), self.list_register()),
            };
            self.world
                .machine
                .write((words[11] - BASE) as usize, word as usize, value);
        }
    }

    fn list_register(&mut self) -> u64 {
        let intid = self.rng.pick(&[27, 27, 33, 1019, 1020]);
        let hw = if self.rng.one_in(2) {
            1 << 61 | self.rng.pick(&[27, 27, 30]) << 32
        } else {
            0
        };
        let odd = if self.rng.one_in(4) {
            1 << self.rng.below(64)
        } else {
            0
        };
        (self.rng.below(4) << 62 | 1 << 60 | 0xA0 << 48 | intid | hw) ^ odd
    }

    /// A frame that another CPU may be at work on, mostly one that the call is about: not the core's own, nor a
    /// run page, which changes hands under its VM's lock alone.
    fn frame_in_use(&mut self, x: [u64; 5]) -> Option<usize> {
        let any = FIRST + self.rng.below((SIZE.frames - SIZE.pool) as u64);
        let lent = |entry: &AtomicU64| entry.load(Ordering::Relaxed) & 0xF == 5;
        let pfn = match HostCall::decode(x[0]) {
            Some(HostCall::MemDonate | HostCall::MemLend | HostCall::VcpuCreate) => x[3],
            Some(HostCall::MemReclaim) => x[2],
            Some(HostCall::MemUnmap) => {
                let index = self.world.entries.iter().position(lent)?;
                BASE + index as u64
            }
            _ => any,
        };
        let pfn = if self.rng.one_in(4) { any } else { pfn };
        let index = pfn.checked_sub(BASE)? as usize;
        let state = self.world.entries.get(index)?.load(Ordering::Relaxed) & 0xF;
        (state != 0 && state != 2).then_some(index)
    }

    fn call(&mut self) -> [u64; 5] {
        let number = match self.rng.below(40) {
            0 => self.wild(),
            1 => abi::hypercall::BASE + self.rng.below(32),
            _ => self.rng.pick(&MOSTLY) as u64,
        };
        let vm = self.handle();
        let (ipa, pfn, count) = (self.ipa(), self.pfn(), self.count());
        let vcpu = self.rng.below(5) / 2;
        let x = match HostCall::decode(number) {
            Some(HostCall::VmCreate) => [self.rng.below(3), self.rng.below(4), 0, 0],
            Some(HostCall::VmSetBoot) => [vm, ipa, self.rng.word(), 0],
            Some(HostCall::MemDonate | HostCall::MemLend) => [vm, ipa, pfn, count],
            Some(HostCall::MemUnmap) => [vm, ipa, count, 0],
            Some(HostCall::MemReclaim) => [vm, pfn, count, 0],
            Some(HostCall::VcpuCreate) => [vm, vcpu, pfn, 0],
            Some(HostCall::CoreInfo) => [self.rng.below(13), 0, 0, 0],
            _ => [vm, vcpu, self.rng.below(6), 0],
        };
        let mut x = [number, x[0], x[1], x[2], x[3]];
        if self.rng.one_in(8) {
            x[1 + self.rng.below(4) as usize] = self.wild();
        }
        x
    }

    /// Mostly a living VM's.
    fn handle(&mut self) -> u64 {
        let living = vm_words(self.world.vm(self.rng.below(SIZE.vms as u64) as usize))[0];
        match self.rng.below(16) {
            0 => self.wild(),
            1 if !self.handles.is_empty() => self.rng.pick(&self.handles),
            2 => living ^ 1 << self.rng.below(64),
            _ => living,
        }
    }

    fn ipa(&mut self) -> u64 {
        let page = self.rng.pick(&PAGES) << 12;
        if self.rng.one_in(8) {
            page + self.rng.pick(&[1, 2, 4, 0x800, 0x1000, 1 << 36])
        } else {
            page
        }
    }

    fn pfn(&mut self) -> u64 {
        if self.rng.one_in(6) {
            self.rng.pick(&[
                0,
                BASE - 1,
                BASE,
                FIRST - 1,
                BASE + SIZE.frames as u64,
                (1 << 36) - 1,
                1 << 36,
                u64::MAX,
            ])
        } else {
            FIRST + self.rng.below((SIZE.frames - SIZE.pool) as u64)
        }
    }

    fn count(&mut self) -> u64 {
        if self.rng.one_in(6) {
            self.rng.pick(&[0, 512, 513, 1 << 24, u64::MAX])
        } else {
            1 + self.rng.below(3)
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

    fn script(&mut self) -> Vec<(u64, [u64; 4])> {
        let hvc = ESR_HVC;
        let one = |rng: &mut Rng<'_>| match rng.below(12) {
            0..=3 => (0x07 << 26 | 1 << 25, [0; 4]), // FP/SIMD
            4 => (0x01 << 26 | 1 << 25, [0; 4]),     // WFI
            5 => (hvc, [0xC600_0003, rng.pick(&PAGES) << 12, 0, 0]), // MEM_SHARE
            6 => (hvc, [0xC600_0004, rng.pick(&PAGES) << 12, 0, 0]), // MEM_UNSHARE
            7 | 8 => (hvc, [0xC400_0003, rng.below(3), 0x4000_0000, 1]), // CPU_ON
            9 => (hvc, [0x8400_0002, 0, 0, 0]),      // CPU_OFF
            10 if rng.one_in(6) => (hvc, [0x8400_0008, 0, 0, 0]), // SYSTEM_OFF
            _ => (
                0x24 << 26 | 1 << 25 | 1 << 24 | 0b11 << 22 | 0x07,
                [0, 0x0900_0000, 0, 0],
            ),
        };
        (0..self.rng.below(3)).map(|_| one(&mut self.rng)).collect()
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new(&self.world);
        snapshot.cpus = self.cpus.iter().map(cpu_text).collect();
        snapshot
    }
}

/// A CPU's registers, x0 of the hostvisor and what a trap leaves in ESR apart.
fn cpu_text(cpu: &WorldCpu<Scripted>) -> String {
    let mut host = cpu.state.host.clone();
    host.x[..5].fill(0);
    let mut hardware = cpu.cpu.hardware.clone();
    hardware.esr = 0;
    let owner = cpu_words(cpu);
    format!(
        "{host:x?} {:x?} {:x?} {owner:x?} {hardware:x?}",
        cpu.state.host_el1, cpu.state.host_world
    )
}

/// VM_DESTROY's way to say that it has only begun.
fn more_to_do(call: Option<HostCall>, code: i64) -> bool {
    call == Some(HostCall::VmDestroy) && code == Error::Again.code()
}
