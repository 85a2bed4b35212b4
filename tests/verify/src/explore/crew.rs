//! Two CPUs as coroutines on one thread, stepped by whoever explores.

use super::action::Action;
use super::check::Ghost;
use super::coroutine::{Player, SHARED, Shared, at_event, at_point, run_forever};
use crate::hash::Hash;
use crate::machine::{self, BASE, Fault, VMS};
use crate::walker::{Regime, WINDOW};
use crate::world::{CPUS, Size, Static, boot, cpu_words, set_cpu_words};
use corevisor::lock;
use corevisor::sim::hook;
use generator::{Generator, Gn};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

pub use super::coroutine::{Footprint, Stop};

/// Words of a coroutine's stack.
const STACK: usize = 1 << 14;

/// A state at rest: all CPUs between calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    words: Vec<u64>,
    known: Vec<crate::walker::Known>,
    holds_fp: bool,
}

/// The machine, its CPUs and who steps them.
pub struct Crew {
    shared: &'static Shared,
    coroutines: [Generator<'static, (), Stop>; CPUS],
    stops: [Stop; CPUS],
    /// What is known of frames besides what the core says.
    pub ghost: Ghost,
    regimes: Vec<Regime>,
    words: Vec<u64>,
    /// The core has given up.
    pub panicked: bool,
}

impl Crew {
    /// A machine after boot, with this bug put in. One a thread.
    #[must_use]
    pub fn new(size: Size, fault: Fault) -> Self {
        SHARED.set(None);
        hook::set(Some(at_point));
        machine::set_hook(Some(at_event));
        let (world, cpus) = boot(size, &[], fault, [Player::default(), Player::default()]);
        let shared: &'static Shared = Box::leak(Box::new(Shared {
            world,
            cpus: cpus.map(RefCell::new),
            running: Cell::new(None),
            draining: Cell::new(false),
            job: Default::default(),
            seen: [const { Cell::new(Hash::new(0)) }; CPUS],
            answer: Default::default(),
            in_guest: Default::default(),
            footprint: Cell::default(),
        }));
        SHARED.set(Some(shared));
        let mut crew = Self {
            shared,
            coroutines: [
                Gn::new_opt(STACK, || run_forever(0)),
                Gn::new_opt(STACK, || run_forever(1)),
            ],
            stops: [Stop::Idle; CPUS],
            ghost: Ghost::new(size.frames),
            regimes: Vec::new(),
            words: Vec::new(),
            panicked: false,
        };
        // The pool's fresh frames hold anything.
        crew.tidy_memory();
        crew.look();
        crew
    }

    /// The machine and the core.
    #[must_use]
    pub const fn world(&self) -> &Static {
        &self.shared.world
    }

    /// Where the CPUs have stopped.
    #[must_use]
    pub const fn stops(&self) -> [Stop; CPUS] {
        self.stops
    }

    /// Answers (x0) of the CPUs' last calls.
    #[must_use]
    pub fn answer(&self, cpu: usize) -> u64 {
        self.shared.answer[cpu].get()
    }

    /// What has been touched since it was last asked.
    pub fn take_footprint(&self) -> Footprint {
        self.shared.footprint.take()
    }

    /// VTTBR of the guest that runs on `cpu` at this moment, or 0.
    #[must_use]
    pub fn in_guest(&self, cpu: usize) -> u64 {
        self.shared.in_guest[cpu].get()
    }

    /// Regimes that a CPU may load, and walk, at this moment.
    #[must_use]
    pub fn regimes(&self) -> &[Regime] {
        &self.regimes
    }

    /// Gives an idle CPU its next call; it stops before the first step.
    pub fn start(&mut self, cpu: usize, action: Action) {
        self.shared.job[cpu].set(Some(action));
        self.shared.seen[cpu].set(Hash::new(2).words(action.code()));
        self.stops[cpu] = Stop::Step;
    }

    /// Lets `cpu` make one step, and everybody look at what came of it.
    pub fn step(&mut self, cpu: usize) {
        let fault = self.shared.world.machine.fault();
        let hidden =
            (fault == Fault::BusyUnseen).then(|| self.ghost.hide(self.shared.world.entries, cpu));
        self.resume(cpu);
        if let Some(hidden) = hidden {
            self.ghost.unhide(self.shared.world.entries, &hidden, cpu);
        }
        if self.stops[cpu] == Stop::Idle {
            let mut walker = self.shared.world.machine.walker.lock().unwrap();
            for (vmid, ipa) in core::mem::take(&mut walker.late) {
                walker.invalidate(vmid, ipa);
            }
        }
        self.look();
    }

    fn resume(&mut self, cpu: usize) {
        self.shared.running.set(Some(cpu));
        let coroutine = &mut self.coroutines[cpu];
        match catch_unwind(AssertUnwindSafe(|| coroutine.resume())) {
            Ok(Some(stop)) => self.stops[cpu] = stop,
            _ => {
                self.panicked = true;
                self.stops[cpu] = Stop::Idle;
                lock::swap_held(0);
            }
        }
        self.shared.running.set(None);
        // Whoever waits may try again.
        if self.stops[cpu] != Stop::Waiting && self.stops[1 - cpu] == Stop::Waiting {
            self.stops[1 - cpu] = Stop::Step;
        }
    }

    /// Finishes all calls without looking: what comes of them is of no interest.
    pub fn drain(&mut self) {
        self.shared.draining.set(true);
        for turn in 0..10_000 {
            let cpu = turn % CPUS;
            if self.stops[cpu] != Stop::Idle {
                self.resume(cpu);
            }
            if self.stops == [Stop::Idle; CPUS] {
                self.shared.draining.set(false);
                return;
            }
        }
        panic!("calls do not come to an end");
    }

    /// Walkers see what they can; guests write where they can.
    fn look(&mut self) {
        let world = &self.shared.world;
        self.regimes.clear();
        self.regimes
            .push(Regime::of(world.host.vttbr, world.host.vtcr));
        for number in 0..VMS {
            let words = world.vm(number).words();
            // Loadable: a vCPU of it may run, or runs still.
            let has_vcpu = words[6..].iter().any(|slot| *slot != 0);
            if (1..=3).contains(&words[1]) || (words[1] == 4 && has_vcpu) {
                self.regimes.push(Regime::of(words[2], words[3]));
            }
            if words[1] == 0 {
                world.machine.public[number].store(0, Ordering::Relaxed);
            }
        }
        let mut walker = world.machine.walker.lock().unwrap();
        walker.observe(world.machine, &self.regimes);
        self.ghost.guests_write(world, walker.known());
    }

    /// The state as one number, for any state. A call under way counts by what it has seen of memory,
    /// frame table and slots, at the steps at which it saw it: its own variables are a function of that.
    pub fn fingerprint(&mut self) -> u64 {
        let shared = self.shared;
        self.words.clear();
        shared.world.save(&mut self.words);
        let mut hash = Hash::new(3).words(self.words.iter().copied());
        for index in 0..shared.world.size.frames {
            let frame = shared.world.machine.frame(index);
            let words = frame.iter().take(WINDOW).chain(frame.last());
            hash = hash.words(words.map(|word| word.load(Ordering::Relaxed)));
        }
        for known in shared.world.machine.walker.lock().unwrap().known() {
            let place = u64::from(known.vmid) << 8 | u64::from(known.level);
            hash = hash.word(place).word(known.ipa).word(known.word);
        }
        hash = hash.words(
            shared
                .world
                .machine
                .public
                .iter()
                .map(|p| p.load(Ordering::Relaxed)),
        );
        for cpu in 0..CPUS {
            hash = match (self.stops[cpu], shared.cpus[cpu].try_borrow()) {
                (Stop::Idle, Ok(own)) => hash.words(cpu_words(&own)),
                (stop, _) => hash.word(stop as u64).word(shared.seen[cpu].get().0),
            };
        }
        hash.0
    }

    /// The state at rest, in its canonical form: names of generations, counters and the contents of
    /// memory that nobody may look at are the same in all states that differ in nothing else.
    pub fn save(&mut self) -> Snapshot {
        self.tidy_memory();
        let world = self.shared.world;
        let mut words = Vec::with_capacity(1000);
        world.save(&mut words);
        for cpu in &self.shared.cpus {
            words.extend(cpu_words(&cpu.borrow()));
        }
        super::canon::rename(&mut words, world.size);
        let cpus = &words[words.len() - CPUS * crate::world::CPU_WORDS..];
        let holds_fp = cpus.chunks(crate::world::CPU_WORDS).any(|cpu| cpu[0] != 0);
        for index in 0..world.size.frames {
            let frame = world.machine.frame(index);
            let kept = frame.iter().take(WINDOW).chain(frame.last());
            words.extend(kept.map(|word| word.load(Ordering::Relaxed)));
        }
        words.extend(
            world
                .machine
                .public
                .iter()
                .map(|p| p.load(Ordering::Relaxed)),
        );
        let known = world.machine.walker.lock().unwrap().known().to_vec();
        Snapshot {
            words,
            known,
            holds_fp,
        }
    }

    /// Puts a state at rest back.
    pub fn load(&mut self, snapshot: &Snapshot) {
        let world = &self.shared.world;
        let mut at = world.load(&snapshot.words);
        for cpu in &self.shared.cpus {
            let words = &snapshot.words[at..];
            set_cpu_words(&mut cpu.borrow_mut(), words);
            at += crate::world::CPU_WORDS;
        }
        for index in 0..world.size.frames {
            let frame = world.machine.frame(index);
            for word in frame.iter().take(WINDOW).chain(frame.last()) {
                word.store(snapshot.words[at], Ordering::Relaxed);
                at += 1;
            }
        }
        for public in &world.machine.public {
            public.store(snapshot.words[at], Ordering::Relaxed);
            at += 1;
        }
        let mut walker = world.machine.walker.lock().unwrap();
        walker.set_known(&snapshot.known, world.machine);
        self.ghost.at_rest(world.entries);
        self.shared.footprint.take();
        drop(walker);
        self.look();
    }

    /// Poisons free table frames and lists them in order (one is as good as another), and clears what
    /// the hostvisor may write anyway.
    fn tidy_memory(&mut self) {
        let world = &self.shared.world;
        let end = BASE + world.size.pool as u64;
        let [head, fresh, count] = world.core.memory.pool().words();
        let mut free: Vec<u64> = (fresh..end).collect();
        let mut next = head;
        while next != 0 && free.len() <= world.size.pool {
            let pfn = (next >> 1) - 1;
            free.push(pfn);
            next = world.machine.read((pfn - BASE) as usize, 0);
        }
        free.sort_unstable();
        let mut link = 0;
        for pfn in free.iter().rev() {
            let index = (pfn - BASE) as usize;
            world.machine.write(index, 0, link);
            for word in 1..WINDOW {
                world.machine.write(index, word, 0xA5A5_A5A5_A5A5_A5A7);
            }
            link = (pfn + 1) << 1;
        }
        world.core.memory.pool().set_words([link, end, count]);
        for index in world.size.pool..world.size.frames {
            let entry = world.entries[index].load(Ordering::Relaxed);
            if matches!(entry & 0x1F, 1 | 2) && !self.ghost.holds_secret(world, index) {
                for word in (0..WINDOW).chain([511]) {
                    world.machine.write(index, word, 0);
                }
            }
        }
    }
}

impl Snapshot {
    /// True if a CPU holds a vCPU's FP/SIMD registers, so that the CPUs differ.
    #[must_use]
    pub fn holds_fp(&self) -> bool {
        self.holds_fp
    }

    /// True if nothing is different that a refused call must leave alone.
    #[must_use]
    pub fn is_as(&self, other: &Self, size: Size) -> bool {
        let [a, b] = [self, other].map(|snapshot| {
            let mut snapshot = snapshot.clone();
            super::canon::forget_epochs(&mut snapshot.words, size);
            snapshot
        });
        a == b
    }

    /// The state as one number.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let known = self
            .known
            .iter()
            .flat_map(|k| [u64::from(k.vmid) << 8 | u64::from(k.level), k.ipa, k.word]);
        Hash::new(4)
            .words(self.words.iter().copied())
            .words(known)
            .0
    }
}
