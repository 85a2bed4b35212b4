//! A CPU as a coroutine, stopped before every step at which CPUs can meet; and what it has seen and done.

use super::action::{Action, Play, ipa};
use crate::cpu::{Guest, Hardware};
use crate::hash::Hash;
use crate::machine::{BASE, Event, Machine, VMS};
use crate::walker::Walker;
use crate::world::{CPUS, ESR_HVC, ESR_LOAD_FAULT, Static, WorldCpu, vcpu_words, vm_words};
use arch::context::GpRegs;
use arch::hal::TrapKind;
use corevisor::lock;
use corevisor::sim::hook::Point;
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

/// Where a CPU has stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Stop {
    /// It has nothing to do.
    Idle,
    /// Before a step.
    Step,
    /// A lock that it needs is another's.
    Waiting,
}

/// Words that a guest writes to what it keeps for itself; the VM's slot is added.
pub(super) const SECRET: u64 = 0x5EC2_E700_0000_0000;
const HYP_MEM_SHARE: u64 = 0xC600_0003;
const HYP_MEM_UNSHARE: u64 = 0xC600_0004;
const HYP_MMIO_GUARD: u64 = 0xC600_0007;
const SYSTEM_OFF: u64 = 0x8400_0008;

/// What a call looked at and did, one bit an object.
#[derive(Clone, Copy, Default, Debug)]
pub struct Footprint {
    /// Objects: frames by index, then their entries, then VM slots, locks, vCPU slots.
    pub objects: u64,
    /// It changed, or tried to change, the state of a frame.
    pub writes: bool,
}

/// What the scheduler and its coroutines have in common.
pub(super) struct Shared {
    pub(super) world: Static,
    pub(super) cpus: [RefCell<WorldCpu<Player>>; CPUS],
    pub(super) running: Cell<Option<usize>>,
    pub(super) draining: Cell<bool>,
    pub(super) job: [Cell<Option<Action>>; CPUS],
    /// What the call under way has seen, see [`Crew::fingerprint`].
    pub(super) seen: [Cell<Hash>; CPUS],
    pub(super) answer: [Cell<u64>; CPUS],
    pub(super) in_guest: [Cell<u64>; CPUS],
    pub(super) footprint: Cell<Footprint>,
}

std::thread_local! {
    pub(super) static SHARED: Cell<Option<&'static Shared>> = const { Cell::new(None) };
}

impl Shared {
    fn note(&self, cpu: usize, word: u64) {
        self.seen[cpu].set(self.seen[cpu].get().word(word));
    }

    fn touch(&self, object: u32) {
        let mut footprint = self.footprint.get();
        footprint.objects |= 1 << object;
        self.footprint.set(footprint);
    }

    /// Stops before the next step; notes, when it goes on, the slots that the call may look at.
    fn pause(&self, cpu: usize, stop: Stop) {
        // That it got this far counts, even if it has seen nothing new.
        if stop == Stop::Step {
            self.note(cpu, 1);
        }
        // Lock ranks are a CPU's own.
        let held = lock::swap_held(0);
        if !self.draining.get() || stop == Stop::Waiting {
            stop_here(stop);
        }
        if let Some(action) = self.job[cpu].get().filter(|_| !self.draining.get()) {
            self.note_slots(cpu, action);
        }
        lock::swap_held(held);
    }

    fn note_slots(&self, cpu: usize, action: Action) {
        let named = action.vm();
        let mut seen = self.seen[cpu].get();
        for vm in 0..VMS {
            if named == Some(vm) || matches!(action, Action::Create(_)) {
                seen = seen.words(vm_words(self.world.vm(vm)));
            }
        }
        if action.sees_vcpus() {
            for slot in self.world.core.vcpus {
                seen = seen.words(vcpu_words(slot));
            }
        }
        self.seen[cpu].set(seen);
    }

    fn entry_index(&self, address: usize) -> usize {
        (address - self.world.entries.as_ptr().addr()) / 8
    }
}

const ENTRY_BITS: u32 = 16;
const VM_BITS: u32 = 32;
const LOCK_BITS: u32 = 36;
const VCPU_BIT: u32 = 40;

/// The hook of the core.
pub(super) fn at_point(point: Point) {
    let Some(shared) = SHARED.get() else { return };
    let Some(cpu) = shared.running.get() else {
        return;
    };
    match point {
        // The pool's lock is held for one pop or push: nobody else's step fits in between.
        Point::Lock(lock::POOL) => {
            shared.touch(LOCK_BITS + u32::from(lock::POOL));
            shared.running.set(None);
            let held = lock::swap_held(0);
            let words = shared.world.core.memory.pool().words();
            lock::swap_held(held);
            shared.running.set(Some(cpu));
            shared.seen[cpu].set(shared.seen[cpu].get().words(words));
        }
        // Held for a few loads and stores.
        Point::Lock(lock::LEAF) => {}
        Point::Lock(rank) => {
            if rank == lock::HOST {
                shared.touch(LOCK_BITS + u32::from(rank));
            }
            shared.pause(cpu, Stop::Step);
        }
        Point::Waiting => shared.pause(cpu, Stop::Waiting),
        Point::Read(address, count) => {
            shared.pause(cpu, Stop::Step);
            let first = shared.entry_index(address);
            for index in first..first + count {
                shared.touch(ENTRY_BITS + index as u32);
                shared.note(cpu, shared.world.entries[index].load(Ordering::Relaxed));
            }
        }
        Point::Write(address) => {
            let mut footprint = shared.footprint.get();
            footprint.writes = true;
            shared.footprint.set(footprint);
            shared.pause(cpu, Stop::Step);
            let index = shared.entry_index(address);
            shared.touch(ENTRY_BITS + index as u32);
            shared.note(cpu, shared.world.entries[index].load(Ordering::Relaxed));
        }
    }
}

/// The hook of the machine.
pub(super) fn at_event(machine: &Machine, event: Event) {
    let Some(shared) = SHARED.get() else { return };
    let Some(cpu) = shared.running.get() else {
        return;
    };
    match event {
        Event::Words(index) => {
            shared.touch(index as u32);
            shared.note(cpu, Walker::digest(machine, index));
        }
        Event::Publish | Event::Invalidate | Event::Zero => shared.pause(cpu, Stop::Step),
        Event::Clean => {}
    }
}

/// The guest: plays its part once, then an interrupt comes.
#[derive(Default)]
pub(super) struct Player {
    play: Option<Play>,
    unsharing: Option<u64>,
}

impl Guest for Player {
    fn run(&mut self, hardware: &mut Hardware, gp: &mut GpRegs) -> TrapKind {
        let shared = SHARED.get().unwrap();
        let cpu = hardware.index;
        let vm = (hardware.world.stage2.vttbr >> 48) as usize - 1;
        let public = &shared.world.machine.public[vm];
        if let Some(page) = self.unsharing.take().filter(|_| gp.x[0] == 0) {
            public.fetch_and(!(1 << page), Ordering::Relaxed);
        }
        // The guest runs for a while.
        shared.in_guest[cpu].set(hardware.world.stage2.vttbr);
        shared.pause(cpu, Stop::Step);
        shared.in_guest[cpu].set(0);
        gp.x = [0; 31];
        (gp.pc, hardware.esr) = (0, ESR_HVC);
        match self.play.take() {
            None | Some(Play::Nothing) => return TrapKind::Interrupt,
            Some(Play::Share(page)) => {
                public.fetch_or(1 << page, Ordering::Relaxed);
                wipe(shared.world.machine, vm, page);
                gp.x[..2].copy_from_slice(&[HYP_MEM_SHARE, ipa(page)]);
            }
            Some(Play::Unshare(page)) => {
                self.unsharing = Some(page);
                gp.x[..2].copy_from_slice(&[HYP_MEM_UNSHARE, ipa(page)]);
            }
            Some(Play::Guard(page)) => {
                gp.x[..2].copy_from_slice(&[HYP_MMIO_GUARD, ipa(page)]);
            }
            Some(Play::Off) => gp.x[0] = SYSTEM_OFF,
            Some(Play::Load(page)) => {
                hardware.esr = ESR_LOAD_FAULT;
                (hardware.far, hardware.fault_page) = (ipa(page), ipa(page));
            }
            Some(Play::Fp) => hardware.esr = 0x07 << 26 | 1 << 25,
        }
        TrapKind::Sync
    }
}

/// The guest wipes its page.
fn wipe(machine: &Machine, vm: usize, page: u64) {
    let walker = machine.walker.lock().unwrap();
    let own = |known: &&crate::walker::Known| {
        known.vmid as usize == vm + 1 && known.is_leaf() && known.ipa == ipa(page)
    };
    for known in walker.known().iter().filter(own) {
        if let Some(index) = crate::walker::frame_of(known.address()) {
            machine.write(index, 0, 0);
            machine.write(index, 511, 0);
        }
    }
}

/// Stops the coroutine that runs.
fn stop_here(stop: Stop) {
    #[allow(
        deprecated,
        reason = "its successor needs a handle that the core's callbacks cannot carry"
    )]
    generator::yield_with(stop);
}

/// A CPU's life as a coroutine: one call after another.
fn serve(cpu: usize) {
    let shared = SHARED.get().unwrap();
    loop {
        if let Some(action) = shared.job[cpu].get() {
            let mut own = shared.cpus[cpu].borrow_mut();
            let handle = action.vm().map_or(0, |vm| {
                shared.touch(VM_BITS + vm as u32);
                match shared.world.vm(vm).words()[0] {
                    // Nobody has it: a handle that somebody had.
                    0 => 9 << 8 | vm as u64,
                    handle => handle,
                }
            });
            if action.sees_vcpus() {
                shared.touch(VCPU_BIT);
            }
            let guest = &mut own.cpu.guest;
            (guest.play, guest.unsharing) = (None, None);
            if let Action::Run(_, play) = action {
                guest.play = Some(play);
            }
            let core = shared.world.core;
            let answer = match (action.call(handle, BASE), action) {
                (Some((call, args)), _) => own.call(core, call, args)[0],
                (None, Action::Touch(frame)) => {
                    u64::from(!own.touch(core, (BASE + frame as u64) << 12, true))
                }
                (None, _) => unreachable!(),
            };
            drop(own);
            shared.answer[cpu].set(answer);
            shared.job[cpu].set(None);
        }
        stop_here(Stop::Idle);
    }
}

/// The body of a coroutine.
pub(super) fn run_forever(cpu: usize) -> Stop {
    serve(cpu);
    Stop::Idle
}
