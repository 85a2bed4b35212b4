//! Two machines in step, and what an adversary sees of each.

use super::guest::{Act, TwinGuest, el1_words, translate};
use crate::cpu::Hardware;
use crate::hash::Hash;
use crate::machine::{BASE, Fault, Machine};
use crate::world::{CPUS, Size, Static, WorldCpu, boot, set_cpu_words};
use abi::PhysAddr;
use arch::descriptor::Access;
use arch::hal::FRAME_WORDS;
use arch::traps::CPTR_TFP;
use corevisor::restricted::Restricted;
use std::sync::atomic::Ordering;

/// The machines of these runs.
pub(super) const SIZE: Size = Size {
    frames: 26,
    pool: 14,
    vms: 2,
    vcpus: 4,
};

const RESTRICTED: [Restricted; 2] = [
    Restricted {
        base: PhysAddr(0x0808_0000),
        size: 0x2_0000,
        access: Access::None,
    },
    Restricted {
        base: PhysAddr(0x080A_0000),
        size: 0x1_0000,
        access: Access::ReadOnly,
    },
];

/// One of the two.
pub(super) struct Twin {
    pub(super) world: Static,
    cpus: [WorldCpu<TwinGuest>; CPUS],
    boot: Vec<u64>,
    boot_memory: Vec<[u64; FRAME_WORDS]>,
    boot_el1: arch::context::El1Regs,
    fault: Fault,
}

/// Both.
pub(super) struct Twins(pub(super) [Twin; 2]);

/// What the hostvisor does on one CPU.
#[derive(Clone, Debug)]
pub(super) enum Move {
    /// It traps with this syndrome and x0–x4; guests that come to run act like this, last first.
    Trap(u64, [u64; 5], Vec<Act>),
    /// It touches an address that may not be mapped: address, as a store.
    Touch(u64, bool),
    /// It stores into RAM, if its table maps it: frame, word, value.
    Store(usize, usize, u64),
}

impl Twin {
    fn new(fault: Fault) -> Self {
        // Guests need the machine, which needs guests to boot: they get it after.
        let dummy: &'static Machine = Box::leak(Box::new(Machine::new(1, fault)));
        let guest = || TwinGuest {
            machine: dummy,
            entries: &[],
            secret: 0,
            is_secret: [false; 2],
            script: Vec::new(),
            seen: Hash::new(5),
            entered: 0,
        };
        let (world, mut cpus) = boot(SIZE, &RESTRICTED, fault, [guest(), guest()]);
        for cpu in &mut cpus {
            cpu.cpu.guest.machine = world.machine;
            cpu.cpu.guest.entries = world.entries;
        }
        let mut words = Vec::new();
        world.save(&mut words);
        let read = |frame: &arch::hal::FrameWords| {
            core::array::from_fn(|n| frame[n].load(Ordering::Relaxed))
        };
        let boot_memory = world.machine.frames().iter().map(read).collect();
        Self {
            boot: words,
            boot_memory,
            boot_el1: cpus[0].cpu.hardware.el1.clone(),
            world,
            cpus,
            fault,
        }
    }

    fn reset(&mut self, secret: u64) {
        self.world.load(&self.boot);
        for (index, memory) in self.boot_memory.iter().enumerate() {
            if self.world.machine.is_dirty(index) {
                for (word, value) in self.world.machine.frame(index).iter().zip(memory) {
                    word.store(*value, Ordering::Relaxed);
                }
            }
        }
        self.world.machine.clean_slate();
        for (index, cpu) in self.cpus.iter_mut().enumerate() {
            let world = cpu.state.host_world;
            cpu.cpu.hardware = Hardware::new(index, self.fault);
            cpu.cpu.hardware.el1 = self.boot_el1.clone();
            set_cpu_words(cpu, &[0, 0, 0, world.cptr]);
            cpu.state.host_el1 = self.boot_el1.clone();
            let guest = &mut cpu.cpu.guest;
            (guest.secret, guest.is_secret, guest.seen) = (secret, [false; 2], Hash::new(5));
        }
    }

    fn play(&mut self, cpu: usize, made: &Move) -> u64 {
        let (core, host) = (self.world.core, self.world.host);
        let own = &mut self.cpus[cpu];
        match made {
            Move::Trap(esr, x, script) => {
                own.cpu.guest.script.clone_from(script);
                // An abort of the hostvisor's says where.
                own.cpu.hardware.far = x[3];
                own.cpu.hardware.fault_page = x[4] & 0xFFFF_FFFF_F000;
                own.trap(core, *esr, *x)[0]
            }
            Move::Touch(address, write) => u64::from(own.touch(core, *address, *write)),
            Move::Store(index, word, value) => {
                let address = (BASE + *index as u64) << 12;
                if translate(self.world.machine, host.vttbr, 0, address) == Some(*index) {
                    self.world.machine.write(*index, *word, *value);
                }
                0
            }
        }
    }

    fn cpu_view(&self, cpu: usize) -> u64 {
        let own = &self.cpus[cpu];
        let (hardware, host) = (&own.cpu.hardware, &own.state.host);
        let mut seen = Hash::new(6).words(host.x).word(host.pc).word(host.pstate);
        seen = seen
            .words(el1_words(&hardware.el1))
            .word(hardware.world.cptr);
        if hardware.world.cptr & CPTR_TFP == 0 {
            seen = seen.words(hardware.fp.v.iter().map(|v| *v as u64));
        }
        let timer = hardware.vtimer;
        seen = seen
            .word(timer.ctl)
            .word(timer.cval)
            .word(hardware.injected)
            .word(hardware.ich_hcr);
        seen.word(own.cpu.guest.seen.0).0
    }

    fn host_maps(&self, index: usize) -> bool {
        let address = (BASE + index as u64) << 12;
        translate(self.world.machine, self.world.host.vttbr, 0, address).is_some()
    }
}

impl Twins {
    /// Two machines with this bug put in.
    pub(super) fn new(fault: Fault) -> Self {
        Self([Twin::new(fault), Twin::new(fault)])
    }

    /// Boots both anew.
    pub(super) fn reset(&mut self) {
        self.0[0].reset(0x1111);
        self.0[1].reset(0x2222);
    }

    /// From now on these VMs' secrets count.
    pub(super) fn set_secret(&mut self, is_secret: [bool; 2]) {
        for twin in &mut self.0 {
            for cpu in &mut twin.cpus {
                cpu.cpu.guest.is_secret = is_secret;
            }
        }
    }

    /// Entries into the protected VM.
    pub(super) fn entered(&self) -> u64 {
        self.0[0].cpus.iter().map(|cpu| cpu.cpu.guest.entered).sum()
    }

    /// x1 of the hostvisor on a CPU.
    pub(super) fn x1(&self, cpu: usize) -> u64 {
        self.0[0].cpus[cpu].state.host.x[1]
    }

    /// Plays a move on both; x0, or what an adversary sees to be different.
    pub(super) fn play(&mut self, cpu: usize, made: &Move) -> Result<u64, String> {
        let [a, b] = &mut self.0;
        let (answer, other) = (a.play(cpu, made), b.play(cpu, made));
        if answer != other {
            return Err(format!("x0 is {answer:#x} or {other:#x}"));
        }
        for cpu in 0..CPUS {
            if a.cpu_view(cpu) != b.cpu_view(cpu) {
                let [x, y] = [&*a, &*b].map(|twin| {
                    let own = &twin.cpus[cpu];
                    format!("{:x?} {:x?}", own.state.host, own.cpu.hardware.el1)
                });
                return Err(format!("registers on CPU {cpu}: {x}\nor {y}"));
            }
        }
        for index in 0..SIZE.frames {
            let maps = a.host_maps(index);
            if maps != b.host_maps(index) {
                return Err(format!("frame {index} is mapped in one of them"));
            }
            if maps && (a.world.machine.is_dirty(index) || b.world.machine.is_dirty(index)) {
                let differs =
                    |n: &usize| a.world.machine.read(index, *n) != b.world.machine.read(index, *n);
                if let Some(word) = (0..FRAME_WORDS).find(differs) {
                    return Err(format!(
                        "the hostvisor reads a difference in frame {index}, word {word}"
                    ));
                }
            }
        }
        Ok(answer)
    }
}
