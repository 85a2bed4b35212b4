//! A simulated machine for tests and exploration on the development host: RAM, a stage-2 table
//! walker, and TLBs that keep everything until told to drop it.
//!
//! The walker reads VTCR, VTTBR and descriptors bit by bit, on its own, so that it does not inherit a
//! mistake in `arch::descriptor`. It looks at the *watched* regimes at every [`Tlb`] call and assumes
//! the worst: whatever a walk could reach is cached. It records as violations what the architecture
//! forbids or leaves unpredictable:
//!
//! - a live descriptor changed to another live one without break-before-make;
//! - an invalidation before the removal was published;
//! - descriptors no walk should meet: reserved kinds, misaligned blocks, no Access flag, tables
//!   outside RAM;
//! - a frame of [`Machine::set_exclusive`] entering one regime while another still reaches it;
//! - a frame zeroed while a VM still reaches it.
//!
//! Nothing of this is part of the shipped core.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code"
)]

pub mod hook;

use crate::frame_table::{FrameTable, RamRegion};
use crate::ownership::Ownership;
use crate::pool::Pool;
use crate::restricted::{Restricted, RestrictedRegions};
use abi::{Ipa, Pfn};
use arch::hal::{FRAME_WORDS, FrameWords, Memory, Stage2Regs, Tlb};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, OnceLock};

/// What RAM holds before anybody wrote to it: looks like valid descriptors.
const JUNK: u64 = 0xA5A5_A5A5_A5A5_A5A7;

/// A leaf that a regime may use, by a walk or by a TLB entry kept from an earlier walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// First input address.
    pub ipa: u64,
    /// First output address.
    pub pa: u64,
    /// Bytes.
    pub size: u64,
    /// Descriptor, for its attributes.
    pub word: u64,
    /// Only a TLB still knows it.
    pub stale: bool,
}

impl Leaf {
    /// S2AP allows stores.
    #[must_use]
    pub const fn writable(&self) -> bool {
        self.word >> 6 & 0b11 == 0b11
    }

    /// MemAttr is Normal Write-Back.
    #[must_use]
    pub const fn normal(&self) -> bool {
        self.word >> 2 & 0b1111 == 0b1111
    }

    /// XN is clear.
    #[must_use]
    pub const fn executable(&self) -> bool {
        self.word >> 53 & 0b11 == 0
    }
}

/// Where a descriptor stands: level and first input address.
type Position = (u32, u64);

/// A table as walkers last saw it.
struct Seen {
    position: Position,
    words: Box<[u64; FRAME_WORDS]>,
}

#[derive(Default)]
struct Regime {
    regs: Stage2Regs,
    tables: HashMap<u64, Seen>,
    /// The leaves in `tables`.
    live: BTreeMap<Position, u64>,
    /// Valid descriptors that are gone from memory and not invalidated yet.
    stale: BTreeMap<Position, u64>,
}

#[derive(Default)]
struct Observer {
    regimes: Vec<Regime>,
    violations: Vec<String>,
    exclusive: Range<u64>,
}

/// RAM and the system's TLBs.
pub struct Machine {
    regions: Vec<RamRegion>,
    frames: HashMap<u64, Box<[OnceLock<Box<FrameWords>>]>>,
    observer: Mutex<Observer>,
    /// Calls of [`Tlb::invalidate_ipa`] and [`Tlb::invalidate_vmid`] so far.
    pub invalidations: AtomicU64,
    /// Calls of [`Memory::clean`] so far.
    pub cleaned: AtomicU64,
    /// Calls of [`Memory::forget_instructions`] so far.
    pub forgotten: AtomicU64,
}

/// A machine, its frame table, and how boot divides its RAM: the pool first, the hostvisor the rest.
pub struct Setup {
    /// The machine.
    pub machine: Machine,
    entries: Vec<AtomicU64>,
    regions: Vec<RamRegion>,
}

impl Setup {
    /// A machine with this RAM, before boot.
    #[must_use]
    pub fn new(regions: &[RamRegion]) -> Self {
        let total = regions.iter().map(|r| r.frames).sum::<u64>();
        Self {
            machine: Machine::new(regions),
            entries: (0..total).map(|_| AtomicU64::new(0)).collect(),
            regions: regions.to_vec(),
        }
    }

    /// Boots the memory layer: the first `core` frames of the first region stay the core's, the last
    /// `pool` of them are the pool.
    #[must_use]
    pub fn boot(
        &self,
        core: u64,
        pool: u64,
        restricted: &[Restricted],
        pa_range: u64,
    ) -> Ownership<'_, Machine> {
        let first = self.regions[0].base.0;
        let pool = Pool::new(&self.machine, Pfn(first + core - pool), pool);
        let frames = FrameTable::new(&self.entries, &self.regions).unwrap();
        let restricted = RestrictedRegions::new(restricted).unwrap();
        let mut ownership = Ownership::new(frames, pool, restricted, pa_range).unwrap();
        for (region, skip) in self.regions.iter().zip([core].into_iter().chain([0; 7])) {
            ownership
                .grant_host(Pfn(region.base.0 + skip), region.frames - skip)
                .unwrap();
        }
        ownership
    }
}

const fn shift(level: u32) -> u32 {
    12 + 9 * (3 - level)
}

const fn address(word: u64) -> u64 {
    word & 0x0000_FFFF_FFFF_F000
}

/// Start level, root frames and first input address beyond the regime.
fn geometry(regs: Stage2Regs) -> (u32, u64, u64) {
    let ipa_bits = 64 - (regs.vtcr & 0x3F) as u32;
    let start = match regs.vtcr >> 6 & 0b11 {
        0b10 => 0,
        0b01 => 1,
        other => panic!("VTCR_EL2.SL0 {other:#b}"),
    };
    assert_eq!(regs.vtcr >> 14 & 0b11, 0, "TG0 is not 4 KiB");
    let entries = 1_u64 << (ipa_bits - shift(start));
    assert!(entries <= 16 * 512, "too many concatenated tables");
    (start, entries.div_ceil(512), 1 << ipa_bits)
}

impl Machine {
    /// A machine with this RAM.
    #[must_use]
    pub fn new(regions: &[RamRegion]) -> Self {
        let empty = |r: &RamRegion| (r.base.0, (0..r.frames).map(|_| OnceLock::new()).collect());
        Self {
            regions: regions.to_vec(),
            frames: regions.iter().map(empty).collect(),
            observer: Mutex::default(),
            invalidations: AtomicU64::new(0),
            cleaned: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
        }
    }

    /// Starts to watch a regime. Not for use with several threads.
    pub fn watch(&self, regs: Stage2Regs) {
        let mut observer = self.observer.lock().unwrap();
        observer.regimes.push(Regime {
            regs,
            ..Regime::default()
        });
        self.observe(&mut observer);
    }

    /// Stops to watch a regime; a violation if TLBs still know anything of it.
    pub fn unwatch(&self, regs: Stage2Regs) {
        let mut observer = self.observer.lock().unwrap();
        self.observe(&mut observer);
        let at = observer
            .regimes
            .iter()
            .position(|r| r.regs == regs)
            .unwrap();
        let regime = observer.regimes.remove(at);
        if regime.leaves().next().is_some() {
            observer
                .violations
                .push(format!("{regs:?} ends with live or stale leaves"));
        }
    }

    /// From now on these physical addresses may enter a regime only if no other watched regime
    /// reaches them.
    pub fn set_exclusive(&self, exclusive: Range<u64>) {
        self.observer.lock().unwrap().exclusive = exclusive;
    }

    /// Every leaf of a watched regime, stale ones included.
    pub fn leaves(&self, regs: Stage2Regs) -> Vec<Leaf> {
        let mut observer = self.observer.lock().unwrap();
        self.observe(&mut observer);
        observer
            .regimes
            .iter()
            .find(|r| r.regs == regs)
            .unwrap()
            .leaves()
            .collect()
    }

    /// Table frames, roots included, that walks of a watched regime come to.
    pub fn tables(&self, regs: Stage2Regs) -> u64 {
        let mut observer = self.observer.lock().unwrap();
        self.observe(&mut observer);
        observer
            .regimes
            .iter()
            .find(|r| r.regs == regs)
            .unwrap()
            .tables
            .len() as u64
    }

    /// Violations so far, and what of any regime is stale right now: both must be empty whenever no
    /// transition is under way.
    pub fn complaints(&self) -> Vec<String> {
        let mut observer = self.observer.lock().unwrap();
        self.observe(&mut observer);
        let stale = observer.regimes.iter().flat_map(|r| &r.stale);
        let stale = stale.map(|(at, word)| format!("stale: {at:x?} {word:#x}"));
        observer.violations.iter().cloned().chain(stale).collect()
    }

    /// An ordinary walk of memory as it is now.
    pub fn translate(&self, regs: Stage2Regs, ipa: Ipa) -> Option<Leaf> {
        let (start, _, limit) = geometry(regs);
        if ipa.0 >= limit {
            return None;
        }
        let mut table = address(regs.vttbr) + (ipa.0 >> shift(start) >> 9) * 4096;
        for level in start..=3 {
            let index = (ipa.0 >> shift(level) & 511) as usize;
            let word = self.words(Pfn(table >> 12))[index].load(Ordering::Relaxed);
            match word & 0b11 {
                0b11 if level < 3 => table = address(word),
                0b01 | 0b11 => {
                    let size = 1 << shift(level);
                    let ipa = ipa.0 & !(size - 1);
                    return Some(Leaf {
                        ipa,
                        pa: address(word),
                        size,
                        word,
                        stale: false,
                    });
                }
                _ => return None,
            }
        }
        None
    }

    fn ram(&self, pa: u64) -> Option<&RamRegion> {
        let pfn = pa >> 12;
        self.regions
            .iter()
            .find(|r| pfn.wrapping_sub(r.base.0) < r.frames)
    }

    /// Lets every walker look at every watched table.
    fn observe(&self, observer: &mut Observer) {
        let Observer {
            regimes,
            violations,
            exclusive,
        } = observer;
        let mut entered = Vec::new();
        for (number, regime) in regimes.iter_mut().enumerate() {
            let (start, roots, _) = geometry(regime.regs);
            let root = address(regime.regs.vttbr);
            if !root.is_multiple_of(roots * 4096) {
                violations.push(format!("root {root:#x} of {roots} frames is misaligned"));
            }
            let mut old = core::mem::take(&mut regime.tables);
            let mut todo: Vec<_> = (0..roots)
                .map(|n| (root + n * 4096, (start, n << (shift(start) + 9))))
                .collect();
            let mut added = Vec::new();
            while let Some((table, position)) = todo.pop() {
                let seen = self.look(table, position, old.remove(&table), regime, &mut added);
                for (word, index) in seen.words.iter().zip(0_u64..) {
                    if position.0 < 3 && word & 0b11 == 0b11 {
                        let below = (position.0 + 1, position.1 + (index << shift(position.0)));
                        if self.ram(address(*word)).is_none() {
                            violations.push(format!("table at {:#x} is not RAM", address(*word)));
                        } else {
                            todo.push((address(*word), below));
                        }
                    }
                }
                regime.tables.insert(table, seen);
            }
            for gone in old.into_values() {
                regime.retire(&gone);
            }
            for (at, word) in added {
                if let Some(problem) = malformed(at, word) {
                    violations.push(format!("{at:x?} {word:#x}: {problem}"));
                }
                if regime.stale.get(&at).is_some_and(|old| *old != word) {
                    violations.push(format!("no break-before-make at {at:x?}: now {word:#x}"));
                }
                if regime.stale.get(&at) == Some(&word) {
                    regime.stale.remove(&at);
                }
                if let Some(leaf) = leaf(at, word, false) {
                    regime.live.insert(at, word);
                    entered.push((number, leaf));
                }
            }
        }
        for (number, leaf) in entered {
            let (from, to) = (
                leaf.pa.max(exclusive.start),
                (leaf.pa + leaf.size).min(exclusive.end),
            );
            let others = regimes
                .iter()
                .enumerate()
                .filter(|(n, _)| from < to && *n != number);
            if others
                .flat_map(|(_, r)| r.leaves())
                .any(|l| l.pa < to && from < l.pa + l.size)
            {
                violations.push(format!("{from:#x} is reached by two regimes"));
            }
        }
    }

    /// Compares a table with what was seen of it before; what vanished goes to `regime.stale`.
    fn look(
        &self,
        table: u64,
        position: Position,
        before: Option<Seen>,
        regime: &mut Regime,
        added: &mut Vec<(Position, u64)>,
    ) -> Seen {
        let same_place = before
            .as_ref()
            .is_some_and(|seen| seen.position == position);
        let mut seen = match before {
            Some(seen) if same_place => seen,
            moved => {
                if let Some(moved) = moved {
                    regime.retire(&moved);
                }
                Seen {
                    position,
                    words: Box::new([0; FRAME_WORDS]),
                }
            }
        };
        let now = self.words(Pfn(table >> 12));
        for (index, old) in seen.words.iter_mut().enumerate() {
            let new = now[index].load(Ordering::Relaxed);
            if new == *old {
                continue;
            }
            let at = (
                position.0,
                position.1 + ((index as u64) << shift(position.0)),
            );
            if *old & 1 != 0 {
                regime.stale.insert(at, *old);
                regime.live.remove(&at);
            }
            if new & 1 != 0 {
                added.push((at, new));
            }
            *old = new;
        }
        seen
    }

    fn invalidate(&self, vttbr: u64, covered: impl Fn(&Position) -> bool) {
        self.invalidations.fetch_add(1, Ordering::Relaxed);
        let mut observer = self.observer.lock().unwrap();
        // What is not published yet can be walked, and cached, once more.
        let unpublished = observer
            .regimes
            .iter()
            .any(|r| r.regs.vttbr == vttbr && self.differs(r));
        if unpublished {
            observer
                .violations
                .push("invalidated before it was published".to_owned());
        }
        for regime in &mut observer.regimes {
            if regime.regs.vttbr >> 48 == vttbr >> 48 {
                regime.stale.retain(|at, _| !covered(at));
            }
        }
        self.observe(&mut observer);
    }

    fn differs(&self, regime: &Regime) -> bool {
        regime.tables.iter().any(|(table, seen)| {
            let now = self.words(Pfn(table >> 12)).iter();
            now.zip(seen.words.iter())
                .any(|(now, seen)| now.load(Ordering::Relaxed) != *seen)
        })
    }
}

impl Regime {
    fn retire(&mut self, gone: &Seen) {
        for (word, index) in gone
            .words
            .iter()
            .zip(0_u64..)
            .filter(|(word, _)| **word & 1 != 0)
        {
            let (level, ipa) = gone.position;
            let at = (level, ipa + (index << shift(level)));
            self.stale.insert(at, *word);
            self.live.remove(&at);
        }
    }

    /// The leaves that lead on from `ipa`, stale ones included.
    fn leaves_at(&self, ipa: u64) -> impl Iterator<Item = Leaf> + '_ {
        (0..=3).flat_map(move |level| {
            let at = (level, ipa & !((1 << shift(level)) - 1));
            let found = |map: &BTreeMap<Position, u64>, stale| {
                map.get(&at).and_then(|word| leaf(at, *word, stale))
            };
            found(&self.live, false)
                .into_iter()
                .chain(found(&self.stale, true))
        })
    }

    fn leaves(&self) -> impl Iterator<Item = Leaf> + '_ {
        let live = self
            .live
            .iter()
            .filter_map(|(at, word)| leaf(*at, *word, false));
        live.chain(
            self.stale
                .iter()
                .filter_map(|(at, word)| leaf(*at, *word, true)),
        )
    }
}

fn leaf((level, ipa): Position, word: u64, stale: bool) -> Option<Leaf> {
    let is_leaf = word & 0b11 == 0b01 || level == 3 && word & 0b11 == 0b11;
    is_leaf.then(|| Leaf {
        ipa,
        pa: address(word),
        size: 1 << shift(level),
        word,
        stale,
    })
}

fn malformed(at: Position, word: u64) -> Option<&'static str> {
    let (level, _) = at;
    if word & 0b11 == 0b01 && (level == 0 || level == 3) {
        return Some("reserved descriptor");
    }
    let leaf = leaf(at, word, false)?;
    if leaf.pa & (leaf.size - 1) != 0 {
        Some("misaligned block")
    } else if word & 1 << 10 == 0 {
        Some("Access flag is clear")
    } else if word >> 8 & 0b11 != 0b11 {
        Some("not Inner Shareable")
    } else if ![0b1111, 0b0001].contains(&(word >> 2 & 0b1111)) {
        Some("unknown MemAttr")
    } else {
        None
    }
}

impl Memory for Machine {
    fn words(&self, frame: Pfn) -> &FrameWords {
        let region = self
            .ram(frame.0 << 12)
            .unwrap_or_else(|| panic!("{frame:?} is not RAM"));
        let cell = &self.frames[&region.base.0][(frame.0 - region.base.0) as usize];
        cell.get_or_init(|| Box::new([const { AtomicU64::new(JUNK) }; FRAME_WORDS]))
    }

    fn clean(&self, frame: Pfn) {
        // There are no caches here: only whether it comes too early is seen, and how often it comes. The
        // hostvisor's table is the identity.
        self.cleaned.fetch_add(1, Ordering::Relaxed);
        let mut observer = self.observer.lock().unwrap();
        let pa = frame.0 << 12;
        let mut host = observer.regimes.iter().filter(|r| r.regs.vttbr >> 48 == 0);
        if host.any(|regime| regime.leaves_at(pa).any(|leaf| leaf.writable())) {
            let what = format!("{pa:#x} is cleaned while the hostvisor can write to it");
            observer.violations.push(what);
        }
    }

    fn forget_instructions(&self) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    fn zero(&self, frame: Pfn) {
        let mut observer = self.observer.lock().unwrap();
        let pa = frame.0 << 12;
        let vms = observer.regimes.iter().filter(|r| r.regs.vttbr >> 48 != 0);
        if vms
            .flat_map(Regime::leaves)
            .any(|l| pa.wrapping_sub(l.pa) < l.size)
        {
            observer
                .violations
                .push(format!("{pa:#x} is zeroed while a VM reaches it"));
        }
        for word in self.words(frame) {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl Tlb for Machine {
    fn publish(&self) {
        self.observe(&mut self.observer.lock().unwrap());
    }

    fn invalidate_ipa(&self, regs: Stage2Regs, ipa: Ipa) {
        self.invalidate(regs.vttbr, |(level, base)| {
            ipa.0.wrapping_sub(*base) < 1 << shift(*level)
        });
    }

    fn invalidate_vmid(&self, regs: Stage2Regs) {
        self.invalidate(regs.vttbr, |_| true);
    }
}

#[cfg(test)]
mod tests {
    //! The detectors detect: each test commits the offence.

    use super::*;
    use arch::descriptor::Geometry;

    const BASE: u64 = 0x4000_0000;
    const REGS: Stage2Regs = Stage2Regs {
        vttbr: 7 << 48 | BASE,
        vtcr: Geometry::vm(4).vtcr,
    };
    const PAGE: u64 = 0x7FF;
    const BLOCK: u64 = 0x7FD;

    /// Root at BASE, level 2 at BASE + 4K, level 3 at BASE + 8K; IPA 0 is mapped to `leaf`.
    fn machine(leaf: u64) -> Machine {
        let machine = Machine::new(&[RamRegion {
            base: Pfn(BASE >> 12),
            frames: 1024,
        }]);
        for frame in 0..3 {
            machine.zero(Pfn((BASE >> 12) + frame));
        }
        set(&machine, 0, (BASE + 0x1000) | 3);
        set(&machine, 1, (BASE + 0x2000) | 3);
        set(&machine, 2, leaf);
        machine.watch(REGS);
        machine
    }

    fn set(machine: &Machine, table: u64, word: u64) {
        machine.words(Pfn((BASE >> 12) + table))[0].store(word, Ordering::Relaxed);
    }

    #[test]
    fn cleaning_what_the_hostvisor_can_still_dirty_is_noticed() {
        let machine = machine(0);
        machine.words(Pfn(BASE >> 12))[1].store(BASE | BLOCK, Ordering::Relaxed);
        machine.watch(Stage2Regs {
            vttbr: BASE,
            ..REGS
        });
        machine.clean(Pfn((BASE >> 12) + 5));
        let complaints = machine.complaints();
        assert!(
            complaints
                .iter()
                .any(|c| c.contains("0x40005000 is cleaned while")),
            "{complaints:?}"
        );
    }

    #[test]
    fn break_before_make_is_clean() {
        let machine = machine(BASE | PAGE);
        set(&machine, 2, 0);
        machine.publish();
        assert_eq!(machine.complaints().len(), 1, "stale until invalidated");
        assert!(machine.leaves(REGS)[0].stale);
        machine.invalidate_ipa(REGS, Ipa(0));
        set(&machine, 2, (BASE + 0x3000) | PAGE);
        machine.publish();
        assert!(
            machine.complaints().is_empty(),
            "{:?}",
            machine.complaints()
        );
        assert_eq!(
            machine.translate(REGS, Ipa(0x123)).unwrap().pa,
            BASE + 0x3000
        );
    }

    #[test]
    fn live_to_live_is_caught() {
        let machine = machine(BASE | PAGE);
        set(&machine, 2, (BASE + 0x3000) | PAGE);
        machine.publish();
        assert!(machine.complaints()[0].contains("break-before-make"));
    }

    #[test]
    fn make_before_invalidation_is_caught() {
        let machine = machine(BASE | PAGE);
        set(&machine, 2, 0);
        machine.publish();
        set(&machine, 2, (BASE + 0x3000) | PAGE);
        machine.publish();
        machine.invalidate_ipa(REGS, Ipa(0));
        assert!(machine.complaints()[0].contains("break-before-make"));
    }

    #[test]
    fn invalidation_of_another_page_leaves_the_entry_stale() {
        let machine = machine(BASE | PAGE);
        set(&machine, 2, 0);
        machine.publish();
        machine.invalidate_ipa(REGS, Ipa(0x1000));
        machine.invalidate_vmid(Stage2Regs {
            vttbr: 8 << 48 | BASE,
            ..REGS
        });
        assert!(machine.complaints()[0].contains("stale"));
    }

    #[test]
    fn leaves_under_a_removed_table_are_stale_too() {
        let machine = machine(BASE | PAGE);
        set(&machine, 1, 0);
        machine.publish();
        assert_eq!(machine.complaints().len(), 2);
        machine.invalidate_ipa(REGS, Ipa(0x1000));
        assert_eq!(machine.complaints().len(), 1, "the page itself is");
    }

    #[test]
    fn unpublished_invalidation_is_caught() {
        let machine = machine(BASE | PAGE);
        set(&machine, 2, 0);
        machine.invalidate_ipa(REGS, Ipa(0));
        assert!(machine.complaints()[0].contains("published"));
    }

    #[test]
    fn malformed_descriptors_are_caught() {
        assert!(machine(BASE | 0x3FF).complaints()[0].contains("Access flag"));
        assert!(machine(BASE | BLOCK).complaints()[0].contains("reserved"));
        let machine = machine(0);
        set(&machine, 1, 0);
        machine.publish();
        machine.invalidate_vmid(REGS);
        set(&machine, 1, (BASE + 0x1000) | BLOCK);
        machine.publish();
        assert!(machine.complaints()[0].contains("misaligned"));
    }

    #[test]
    fn a_frame_in_two_regimes_is_caught_if_exclusive() {
        for exclusive in [false, true] {
            let machine = machine(BASE | PAGE);
            machine.set_exclusive(if exclusive {
                BASE..BASE + 1
            } else {
                BASE + 0x1000..BASE + 0x2000
            });
            let other = Stage2Regs {
                vttbr: 8 << 48 | (BASE + 0x3000),
                ..REGS
            };
            machine.zero(Pfn((BASE >> 12) + 3));
            machine.words(Pfn((BASE >> 12) + 3))[1].store(BASE | BLOCK, Ordering::Relaxed);
            machine.watch(other);
            assert_eq!(machine.complaints().is_empty(), !exclusive);
        }
    }

    #[test]
    fn zeroing_a_reachable_frame_is_caught() {
        let machine = machine((BASE + 0x3000) | PAGE);
        machine.zero(Pfn((BASE >> 12) + 3));
        assert!(machine.complaints()[0].contains("zeroed"));
    }
}
