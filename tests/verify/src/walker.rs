//! What CPUs make of the stage-2 tables: a walker of its own making, and TLBs that hold, from the moment
//! a walk could see it until an invalidation that covers it, every descriptor, table pointers included.
//! That is the worst any combination of CPUs, speculative walks and walk caches can do, so that there is
//! no choice left to explore.

use crate::hash::Hash;
use crate::machine::{BASE, Machine};
use std::sync::atomic::Ordering;

/// A regime that a CPU may load: who, where its root is, and the level of the first lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Regime {
    /// VMID; 0 is the hostvisor's.
    pub vmid: u8,
    /// First address of the root.
    pub root: u64,
    /// Level of the first lookup.
    pub start: u8,
}

impl Regime {
    /// Bit by bit from VTTBR and VTCR.
    #[must_use]
    pub const fn of(vttbr: u64, vtcr: u64) -> Self {
        Self {
            vmid: (vttbr >> 48) as u8,
            root: vttbr & ADDRESS,
            start: if vtcr >> 6 & 0b11 == 0b10 { 0 } else { 1 },
        }
    }
}

const ADDRESS: u64 = 0x0000_FFFF_FFFF_F000;

/// A descriptor that CPUs may know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Known {
    /// VMID.
    pub vmid: u8,
    /// Level it stands at.
    pub level: u8,
    /// First input address it translates.
    pub ipa: u64,
    /// The descriptor.
    pub word: u64,
}

impl Known {
    /// Bytes it translates.
    #[must_use]
    pub const fn size(&self) -> u64 {
        1 << shift(self.level)
    }

    /// True for a block or page.
    #[must_use]
    pub const fn is_leaf(&self) -> bool {
        self.level == 3 || self.word & 0b10 == 0
    }

    /// Output address of a leaf, or the next table.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.word & ADDRESS
    }
}

/// log2 of what a descriptor of `level` translates.
#[must_use]
pub const fn shift(level: u8) -> u32 {
    12 + 9 * (3 - level as u32)
}

/// What is known of all regimes.
pub struct Walker {
    /// Descriptors of each table that are looked at: the rest of every table is empty.
    window: usize,
    known: Vec<Known>,
    /// Invalidations that have been asked for and not done, see `Fault::LateInvalidation`.
    pub late: Vec<(u8, Option<u64>)>,
    /// Contents of frames when stores were last made visible.
    published: Vec<u64>,
    todo: Vec<(Regime, u8, u64, u64)>,
    problem: Option<String>,
}

/// Descriptors of each table that a walk looks at, unless told otherwise.
pub const WINDOW: usize = 24;

impl Walker {
    /// Nothing is known.
    #[must_use]
    pub fn new(frames: usize) -> Self {
        Self {
            window: WINDOW,
            known: Vec::new(),
            late: Vec::new(),
            published: vec![0; frames],
            todo: Vec::new(),
            problem: None,
        }
    }

    /// All that any CPU may use.
    #[must_use]
    pub fn known(&self) -> &[Known] {
        &self.known
    }

    /// Replaces what is known.
    pub fn set_known(&mut self, known: &[Known], machine: &Machine) {
        self.known.clear();
        self.known.extend_from_slice(known);
        self.late.clear();
        self.problem = None;
        self.published(machine);
    }

    /// What went wrong, if anything did.
    pub fn take_problem(&mut self) -> Option<String> {
        self.problem.take()
    }

    /// Contents of the table window of a frame.
    #[must_use]
    pub fn digest(machine: &Machine, index: usize) -> u64 {
        let words = machine.frame(index).iter().take(WINDOW);
        Hash::new(1)
            .words(words.map(|word| word.load(Ordering::Relaxed)))
            .0
    }

    /// All stores up to now are visible.
    pub fn published(&mut self, machine: &Machine) {
        for (index, published) in self.published.iter_mut().enumerate() {
            *published = Self::digest(machine, index);
        }
    }

    /// Forgets what covers `ipa`, or all of the VMID.
    pub fn invalidate(&mut self, vmid: u8, ipa: Option<u64>) {
        self.known.retain(|known| {
            known.vmid != vmid || ipa.is_some_and(|ipa| ipa.wrapping_sub(known.ipa) >= known.size())
        });
    }

    /// Walks all of `regimes`, and on from every table pointer that is still known, and remembers what
    /// it finds.
    pub fn observe(&mut self, machine: &Machine, regimes: &[Regime]) {
        self.todo.clear();
        for regime in regimes {
            self.todo.push((*regime, regime.start, 0, regime.root));
        }
        for known in self.known.iter().filter(|known| !known.is_leaf()) {
            let regime = Regime {
                vmid: known.vmid,
                root: 0,
                start: 0,
            };
            self.todo
                .push((regime, known.level + 1, known.ipa, known.address()));
        }
        while let Some((regime, level, base, table)) = self.todo.pop() {
            let Some(index) = machine.index(abi::Pfn(table >> 12)) else {
                self.problem = Some(format!("table at {table:#x} is not RAM"));
                continue;
            };
            let words = machine.frame(index).iter().take(self.window);
            for (word, n) in words.zip(0_u64..) {
                let word = word.load(Ordering::Relaxed);
                if word & 1 == 0 {
                    continue;
                }
                let known = Known {
                    vmid: regime.vmid,
                    level,
                    ipa: base + (n << shift(level)),
                    word,
                };
                let Err(at) = self.known.binary_search(&known) else {
                    continue;
                };
                self.check_new(machine, &known);
                self.known.insert(at, known);
                if !known.is_leaf() {
                    self.todo
                        .push((regime, level + 1, known.ipa, known.address()));
                }
            }
        }
    }

    fn check_new(&mut self, machine: &Machine, new: &Known) {
        let same_place =
            |old: &&Known| (old.vmid, old.level, old.ipa) == (new.vmid, new.level, new.ipa);
        if let Some(old) = self.known.iter().find(same_place) {
            self.problem = Some(format!("no break-before-make: {old:x?} and {new:x?}"));
        }
        if new.word & 0b10 == 0 && (new.level == 0 || new.level == 3) {
            self.problem = Some(format!("reserved descriptor: {new:x?}"));
        }
        if new.is_leaf() {
            if new.address() & (new.size() - 1) != 0 || new.word & 1 << 10 == 0 {
                self.problem = Some(format!("misaligned or without Access flag: {new:x?}"));
            }
        } else {
            match machine.index(abi::Pfn(new.address() >> 12)) {
                None => self.problem = Some(format!("table outside RAM: {new:x?}")),
                Some(index) if self.published[index] != Self::digest(machine, index) => {
                    self.problem = Some(format!("linked before it was published: {new:x?}"));
                }
                Some(_) => {}
            }
        }
    }

    /// What is known but no longer in the tables of `regimes`: stale.
    #[must_use]
    pub fn stale(&self, machine: &Machine, regimes: &[Regime]) -> Option<Known> {
        let mut now = Self::new(machine.frames().len());
        now.window = self.window;
        now.published.clone_from(&self.published);
        now.observe(machine, regimes);
        self.known
            .iter()
            .find(|known| now.known.binary_search(known).is_err())
            .copied()
    }

    /// A descriptor outside the window, if there is any: the exploration would be blind for it.
    #[must_use]
    pub fn beyond_window(&self, machine: &Machine) -> Option<u64> {
        let tables = self.known.iter().filter(|known| !known.is_leaf());
        tables.map(Known::address).find(|table| {
            machine.index(abi::Pfn(table >> 12)).is_some_and(|index| {
                let beyond = machine.frame(index).iter().skip(self.window);
                beyond.fold(0, |all, word| all | word.load(Ordering::Relaxed)) != 0
            })
        })
    }
}

/// Frame index of the first byte of RAM at `pa`, if it is RAM.
#[must_use]
pub fn frame_of(pa: u64) -> Option<usize> {
    usize::try_from((pa >> 12).checked_sub(BASE)?).ok()
}
