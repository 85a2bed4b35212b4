//! The corevisor on a simulated machine with two CPUs, and its state as words: to be hashed, kept, and
//! put back.

use crate::cpu::{Guest, LIST_REGISTERS, SimCpu, VTIMER};
use crate::machine::{BASE, Fault, Machine};
use abi::{HostCall, MAX_CPUS, MAX_VCPUS, Pfn};
use arch::context::GpRegs;
use arch::descriptor::Geometry;
use corevisor::config::Config;
use corevisor::core::{Core, CpuState, HostEntry};
use corevisor::fpu::Owner;
use corevisor::frame_table::{FrameTable, RamRegion};
use corevisor::host;
use corevisor::idregs;
use corevisor::ownership::Ownership;
use corevisor::pool::Pool;
use corevisor::restricted::{Restricted, RestrictedRegions};
use corevisor::stage2::Stage2;
use corevisor::vcpu::{BootEntry, Pending, Vcpu};
use corevisor::vcpu_slot::VcpuSlot;
use corevisor::vm::{VmInner, VmSlot, Vms};
use std::sync::atomic::{AtomicU64, Ordering};

/// CPUs of the machine.
pub const CPUS: usize = 2;
/// ID_AA64MMFR0_EL1.PARange: 44 bits.
pub const PA_RANGE: u64 = 4;
/// ESR_EL2 of HVC #0.
pub const ESR_HVC: u64 = 0x16 << 26 | 1 << 25;
/// ESR_EL2 of SMC #0.
pub const ESR_SMC: u64 = 0x17 << 26 | 1 << 25;
/// ESR_EL2 of a load with a level 3 translation fault: 64 bits into x0.
pub const ESR_LOAD_FAULT: u64 = 0x24 << 26 | 1 << 25 | 1 << 24 | 0b11 << 22 | 1 << 15 | 0x07;
/// ESR.ISS of a data abort: it was a store.
pub const ESR_WRITE: u64 = 1 << 6;

/// How big the machine is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Frames of RAM.
    pub frames: usize,
    /// The first of them are the page-table pool, and the core's.
    pub pool: usize,
    /// VM slots that a run uses, from 0 on.
    pub vms: usize,
    /// vCPU slots of the machine.
    pub vcpus: usize,
}

/// A CPU: the hardware and what the core keeps of it.
pub struct WorldCpu<G> {
    /// Hardware.
    pub cpu: SimCpu<G>,
    /// The core's part.
    pub state: CpuState,
}

/// What does not change hands: leaked once, so that it lives as long as the core.
#[derive(Clone, Copy)]
pub struct Static {
    /// The machine.
    pub machine: &'static Machine,
    /// The frame table's words.
    pub entries: &'static [AtomicU64],
    /// The core.
    pub core: &'static Core<Machine>,
    /// The hostvisor's VTTBR and VTCR.
    pub host: arch::hal::Stage2Regs,
    /// How big it all is.
    pub size: Size,
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Boots the core; both CPUs are in the hostvisor. `guests` play the guests.
pub fn boot<G: Guest>(
    size: Size,
    restricted: &[Restricted],
    fault: Fault,
    guests: [G; CPUS],
) -> (Static, [WorldCpu<G>; CPUS]) {
    let machine = leak(Machine::new(size.frames, fault));
    let entries: &'static [AtomicU64] =
        Box::leak((0..size.frames).map(|_| AtomicU64::new(0)).collect());
    let region = RamRegion {
        base: Pfn(BASE),
        frames: size.frames as u64,
    };
    let frames = FrameTable::new(entries, &[region]).unwrap();
    let pool = Pool::new(machine, Pfn(BASE), size.pool as u64);
    let restricted = RestrictedRegions::new(restricted).unwrap();
    let mut memory = Ownership::new(frames, pool, restricted, PA_RANGE).unwrap();
    let host_frames = (size.frames - size.pool) as u64;
    memory
        .grant_host(Pfn(BASE + size.pool as u64), host_frames)
        .unwrap();
    let host = memory.host_regs();
    let mut mpidr = [0; MAX_CPUS];
    mpidr[1] = 1;
    let config = Config {
        mpidr,
        cpus: CPUS,
        list_registers: LIST_REGISTERS,
        gicv: None,
        vtimer_intid: VTIMER,
        id_registers: [0x11; idregs::COUNT],
        ram_frames: size.frames as u64,
        core_frames: size.pool as u64,
        boot_ticks: 1,
    };
    let slots: &'static [VcpuSlot] = Box::leak((0..size.vcpus).map(|_| VcpuSlot::new()).collect());
    let core = leak(Core::new(memory, leak(Vms::new()), slots, config));
    let entry = HostEntry { pc: 0, x: [0; 5] };
    core.cpus[1].claim(entry).unwrap();
    core.cpus[1].arrive();
    let mut index = 0;
    let cpus = guests.map(|guest| {
        let hardware = crate::cpu::Hardware::new(index, fault);
        let mut cpu = SimCpu { hardware, guest };
        let state = host::start(core, &mut cpu, index, entry);
        index += 1;
        WorldCpu { cpu, state }
    });
    machine.clean_slate();
    // All other slots are taken, by VMs without a handle.
    for number in size.vms..corevisor::vm::SLOTS {
        let mut words = [0; VM_OUTER];
        words[1] = corevisor::vm::Life::Building as u64;
        core.vms.slot(number).unwrap().set_words(&words);
    }
    let machine = Static {
        machine,
        entries,
        core,
        host,
        size,
    };
    (machine, cpus)
}

impl<G: Guest> WorldCpu<G> {
    /// The hostvisor makes a hypercall on this CPU; answers x0–x4.
    pub fn call(&mut self, core: &Core<Machine>, call: HostCall, args: [u64; 4]) -> [u64; 5] {
        let [a, b, c, d] = args;
        self.trap(core, ESR_HVC, [call as u64, a, b, c, d])
    }

    /// The hostvisor traps with `esr` and these values in x0–x4; answers x0–x4.
    pub fn trap(&mut self, core: &Core<Machine>, esr: u64, x: [u64; 5]) -> [u64; 5] {
        self.state.host.x[..5].copy_from_slice(&x);
        self.cpu.hardware.esr = esr;
        host::trap(core, &mut self.cpu, &mut self.state);
        core::array::from_fn(|n| self.state.host.x[n])
    }

    /// The hostvisor touches a page that its table does not map at the moment. True if the core lets it
    /// repeat the access.
    pub fn touch(&mut self, core: &Core<Machine>, ipa: u64, write: bool) -> bool {
        let before = self.cpu.hardware.injected;
        self.cpu.hardware.far = ipa;
        self.cpu.hardware.fault_page = ipa & !0xFFF;
        self.cpu.hardware.esr = ESR_LOAD_FAULT | if write { ESR_WRITE } else { 0 };
        host::trap(core, &mut self.cpu, &mut self.state);
        self.cpu.hardware.injected == before
    }
}

/// Words of a VM slot.
pub const VM_WORDS: usize = VM_OUTER + 10;
/// Words of it that are not behind its lock.
pub const VM_OUTER: usize = 6 + MAX_VCPUS;
/// Words of a vCPU slot.
pub const VCPU_WORDS: usize = 6 + 13;
/// Words of a CPU.
pub const CPU_WORDS: usize = 4;

/// A VM slot's words; what is behind its lock counts as unknown while a call holds it.
#[must_use]
pub fn vm_words(slot: &VmSlot) -> [u64; VM_WORDS] {
    let mut words = [0; VM_WORDS];
    let (outer, rest) = words.split_at_mut(VM_OUTER);
    outer.copy_from_slice(&slot.words());
    let Some(inner) = slot.inner() else {
        rest[0] = u64::MAX;
        return words;
    };
    if let Some(stage2) = &inner.stage2 {
        let [root, vttbr, closed] = stage2.words();
        rest[..4].copy_from_slice(&[1, root, vttbr, closed]);
    }
    rest[4] = u64::from(inner.protected);
    rest[5] = inner.max_vcpus as u64;
    rest[6] = inner.frames;
    if let Some(boot) = inner.boot {
        (rest[7], rest[8]) = (1 + boot.entry.0, boot.context);
    }
    rest[9] = inner.mmio_pages;
    words
}

/// Puts [`vm_words`] back. Nobody holds the slot.
pub fn set_vm_words(slot: &VmSlot, words: &[u64]) {
    let (outer, rest) = words.split_at(VM_OUTER);
    slot.set_words(&core::array::from_fn(|n| outer[n]));
    *slot.inner().unwrap() = VmInner {
        stage2: (rest[0] == 1)
            .then(|| Stage2::of_words(Geometry::vm(PA_RANGE), [rest[1], rest[2], rest[3]])),
        protected: rest[4] != 0,
        max_vcpus: rest[5] as usize,
        frames: rest[6],
        mmio_pages: rest[9],
        boot: (rest[7] != 0).then(|| BootEntry {
            entry: abi::Ipa(rest[7] - 1),
            context: rest[8],
        }),
    };
}

/// A vCPU slot's words, registers left out; what is behind its lock counts as unknown while a call holds
/// it.
#[must_use]
pub fn vcpu_words(slot: &VcpuSlot) -> [u64; VCPU_WORDS] {
    let mut words = [0; VCPU_WORDS];
    words[..6].copy_from_slice(&slot.words());
    let Ok(vcpu) = slot.try_lock() else {
        words[6] = u64::MAX;
        return words;
    };
    let w = &vcpu.world;
    words[6..].copy_from_slice(&[
        vcpu.vm,
        vcpu.index as u64,
        u64::from(vcpu.on),
        u64::from(vcpu.pending != Pending::None),
        vcpu.epoch,
        vcpu.run_page.0,
        w.stage2.vttbr,
        w.stage2.vtcr,
        w.hcr,
        w.cptr,
        w.cnthctl,
        w.cntvoff,
        w.vmpidr,
    ]);
    words
}

/// Puts [`vcpu_words`] back: registers are at reset, no access waits for an answer.
pub fn set_vcpu_words(slot: &VcpuSlot, words: &[u64]) {
    slot.set_words(core::array::from_fn(|n| words[n]));
    let mut vcpu = slot.try_lock().unwrap();
    let w = &words[6..];
    *vcpu = Vcpu {
        vm: w[0],
        index: w[1] as usize,
        on: w[2] != 0,
        epoch: w[4],
        run_page: Pfn(w[5]),
        world: arch::hal::WorldRegs {
            stage2: arch::hal::Stage2Regs {
                vttbr: w[6],
                vtcr: w[7],
            },
            hcr: w[8],
            cptr: w[9],
            cnthctl: w[10],
            cntvoff: w[11],
            vmpidr: w[12],
        },
        ..Vcpu::EMPTY
    };
}

/// A CPU's words.
#[must_use]
pub fn cpu_words<G>(cpu: &WorldCpu<G>) -> [u64; CPU_WORDS] {
    let (slot, vm) = match cpu.state.fp_owner {
        Some(owner) => (owner.slot as u64 + 1, owner.vm),
        None => (0, 0),
    };
    [
        slot,
        vm,
        cpu.state.lrs_loaded as u64,
        cpu.cpu.hardware.world.cptr,
    ]
}

/// Puts [`cpu_words`] back; the hostvisor's registers are zero.
pub fn set_cpu_words<G>(cpu: &mut WorldCpu<G>, words: &[u64]) {
    cpu.state.fp_owner = (words[0] != 0).then(|| Owner {
        slot: words[0] as usize - 1,
        vm: words[1],
    });
    cpu.state.lrs_loaded = words[2] as usize;
    cpu.state.host = GpRegs::new();
    cpu.cpu.hardware.world.clone_from(&cpu.state.host_world);
    cpu.cpu.hardware.world.cptr = words[3];
}

impl Static {
    /// The VM slot of this number.
    #[must_use]
    pub fn vm(&self, number: usize) -> &'static VmSlot {
        self.core.vms.slot(number).unwrap()
    }

    /// Words of frame table, pool, VM and vCPU slots, in this order, and the generation counter.
    pub fn save(&self, words: &mut Vec<u64>) {
        words.extend(self.entries.iter().map(|e| e.load(Ordering::Relaxed)));
        words.extend(self.core.memory.pool().words());
        for number in 0..self.size.vms {
            words.extend(vm_words(self.vm(number)));
        }
        for slot in self.core.vcpus {
            words.extend(vcpu_words(slot));
        }
        words.push(self.core.vms.generation().load(Ordering::Relaxed));
    }

    /// Puts them back; answers how many they were.
    pub fn load(&self, words: &[u64]) -> usize {
        let mut at = 0;
        let mut take = |count: usize| {
            at += count;
            &words[at - count..at]
        };
        for (entry, word) in self.entries.iter().zip(take(self.entries.len())) {
            entry.store(*word, Ordering::Relaxed);
        }
        let pool = take(3);
        self.core
            .memory
            .pool()
            .set_words([pool[0], pool[1], pool[2]]);
        for number in 0..self.size.vms {
            set_vm_words(self.vm(number), take(VM_WORDS));
        }
        for slot in self.core.vcpus {
            set_vcpu_words(slot, take(VCPU_WORDS));
        }
        let generation = take(1)[0];
        self.core
            .vms
            .generation()
            .store(generation, Ordering::Relaxed);
        self.core.first_guest_ticks.store(1, Ordering::Relaxed);
        at
    }
}
