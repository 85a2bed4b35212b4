//! The frame table: one [`Entry`] for every 4 KiB frame of RAM.
//!
//! A transition claims frames (compare-and-swap to a busy entry), does what the decision asked for,
//! and commits (a plain store). While a frame is busy every other transition on it is refused with
//! [`Error::Busy`]: nobody waits for a frame, so frames need no place in the lock order.

use crate::frame::{Effects, Entry};
#[cfg(any(test, feature = "sim"))]
use crate::sim::hook;
use crate::transition::{Claim, Transition};
use abi::{Error, Pfn};
use core::sync::atomic::{AtomicU64, Ordering};

/// Most RAM regions a machine may have.
pub const MAX_RAM_REGIONS: usize = 8;

/// A range of RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RamRegion {
    /// First frame.
    pub base: Pfn,
    /// Number of frames.
    pub frames: u64,
}

/// The entries of all RAM regions, one region after the other.
pub struct FrameTable<'a> {
    entries: &'a [AtomicU64],
    regions: [RamRegion; MAX_RAM_REGIONS],
}

impl<'a> FrameTable<'a> {
    /// The table over `entries`, which must be all zero: every frame is the core's.
    ///
    /// [`Error::Invalid`] if there are too many regions, if they are out of order, overlap or reach
    /// beyond 48 bits of address, or if there are fewer entries than frames.
    pub fn new(entries: &'a [AtomicU64], regions: &[RamRegion]) -> Result<Self, Error> {
        let mut kept = [RamRegion::default(); MAX_RAM_REGIONS];
        if regions.len() > MAX_RAM_REGIONS {
            return Err(Error::Invalid);
        }
        let (mut total, mut end) = (0_u64, 0_u64);
        for (slot, region) in kept.iter_mut().zip(regions) {
            if region.base.0 < end || region.base.0 > 1 << 36 || region.frames > 1 << 36 {
                return Err(Error::Invalid);
            }
            end = region.base.0 + region.frames;
            total += region.frames;
            *slot = *region;
        }
        if end > 1 << 36 || total > entries.len() as u64 {
            return Err(Error::Invalid);
        }
        Ok(Self {
            entries,
            regions: kept,
        })
    }

    /// Frames of RAM in all.
    #[must_use]
    pub fn ram_frames(&self) -> u64 {
        self.regions.iter().map(|region| region.frames).sum()
    }

    /// True if any of `count` frames from `pfn` on is RAM.
    #[must_use]
    pub fn any_ram(&self, pfn: Pfn, count: u64) -> bool {
        let end = pfn.0.saturating_add(count);
        self.regions
            .iter()
            .any(|r| r.base.0 < end && pfn.0 < r.base.0 + r.frames)
    }

    /// The entry of a frame; `None` if it is not RAM.
    #[must_use]
    pub fn entry(&self, pfn: Pfn) -> Option<Entry> {
        // Acquire: what was done to the frame before its commit (zeroing) is seen after this.
        let run = self.run(pfn, 1);
        #[cfg(any(test, feature = "sim"))]
        hook::read(run);
        run.first().map(|word| Entry(word.load(Ordering::Acquire)))
    }

    /// True if all of `count` frames from `pfn` on are RAM, in state Host and not busy.
    #[must_use]
    pub fn all_host(&self, pfn: Pfn, count: u64) -> bool {
        let run = self.run(pfn, count);
        #[cfg(any(test, feature = "sim"))]
        hook::read(run);
        run.len() as u64 == count
            && run
                .iter()
                .all(|e| e.load(Ordering::Acquire) == Entry::HOST.0)
    }

    /// Claims `count` frames from `pfn` on for `transition`, or as many of them as can be had in a
    /// row with the same effects; the first is at `ipa_page`. The error is the first frame's.
    pub fn claim<D>(
        &self,
        transition: &Transition<D>,
        ipa_page: u64,
        pfn: Pfn,
        count: u64,
    ) -> Result<Claim<'_, D>, Error> {
        let run = self.run(pfn, count);
        let mut effects = None;
        let mut claimed = 0;
        let mut refusal = Error::Denied; // Not RAM at all.
        for (word, ipa_page) in run.iter().zip(ipa_page..) {
            match claim_one(word, transition, ipa_page) {
                Ok((_, wanted)) if effects.is_none() => effects = Some(wanted),
                Ok((_, wanted)) if effects == Some(wanted) => {}
                Ok((old, _)) => {
                    #[cfg(any(test, feature = "sim"))]
                    hook::write(word);
                    word.store(old.0, Ordering::Release);
                    break;
                }
                Err(error) => {
                    refusal = error;
                    break;
                }
            }
            claimed += 1;
        }
        let effects = effects.ok_or(refusal)?;
        Ok(Claim::new(run.get(..claimed).unwrap_or_default(), effects))
    }

    /// The entries of `count` frames from `pfn` on, cut off where RAM ends.
    fn run(&self, pfn: Pfn, count: u64) -> &'a [AtomicU64] {
        let mut first = 0;
        for region in &self.regions {
            let offset = pfn.0.wrapping_sub(region.base.0);
            if offset < region.frames {
                let from = first + offset;
                let to = from + count.min(region.frames - offset);
                return self
                    .entries
                    .get(from as usize..to as usize)
                    .unwrap_or_default();
            }
            first += region.frames;
        }
        &[]
    }
}

/// Moves one entry to the busy goal of `transition`; answers the old entry and the effects.
fn claim_one<D>(
    word: &AtomicU64,
    transition: &Transition<D>,
    ipa_page: u64,
) -> Result<(Entry, Effects), Error> {
    #[cfg(any(test, feature = "sim"))]
    hook::read(core::slice::from_ref(word));
    let old = Entry(word.load(Ordering::Relaxed));
    let (next, effects) = transition.decide(old, ipa_page)?;
    make_busy(word, old, next)?;
    Ok((old, effects))
}

/// Makes `word` the busy form of `next` if it still is `old`; [`Error::Busy`] if another CPU was faster.
fn make_busy(word: &AtomicU64, old: Entry, next: Entry) -> Result<(), Error> {
    #[cfg(any(test, feature = "sim"))]
    hook::write(word);
    match word.compare_exchange(old.0, next.busy().0, Ordering::Acquire, Ordering::Relaxed) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Busy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::VmId;

    const REGIONS: [RamRegion; 2] = [
        RamRegion {
            base: Pfn(0x100),
            frames: 4,
        },
        RamRegion {
            base: Pfn(0x200),
            frames: 3,
        },
    ];

    fn words() -> [AtomicU64; 7] {
        core::array::from_fn(|i| AtomicU64::new(if i < 2 { Entry::CORE.0 } else { Entry::HOST.0 }))
    }

    #[test]
    fn regions_are_checked() {
        let words = words();
        let region = |base, frames| RamRegion {
            base: Pfn(base),
            frames,
        };
        let refused = |regions: &[RamRegion]| FrameTable::new(&words, regions).is_err();
        assert!(!refused(&REGIONS));
        assert!(refused(&[region(0x100, 8)]), "more frames than entries");
        assert!(
            refused(&[region(0x200, 1), region(0x100, 1)]),
            "out of order"
        );
        assert!(refused(&[region(0x100, 2), region(0x101, 1)]), "overlap");
        assert!(refused(&[region((1 << 36) - 1, 2)]), "beyond 48 bits");
        assert!(refused(&[region(u64::MAX, 2)]));
        assert!(refused(&[region(1, 0); 9]), "too many");
    }

    #[test]
    fn each_frame_of_ram_has_its_own_entry() {
        let words = words();
        let Ok(table) = FrameTable::new(&words, &REGIONS) else {
            unreachable!()
        };
        for (word, n) in words.iter().zip(0..) {
            word.store(n << 32, Ordering::Relaxed);
        }
        assert_eq!(table.ram_frames(), 7);
        let found = |pfn| table.entry(Pfn(pfn)).map(|e| e.0 >> 32);
        for (pfn, n) in (0x100..0x104).chain(0x200..0x203).zip(0..) {
            assert_eq!(found(pfn), Some(n));
        }
        for pfn in [0, 0xFF, 0x104, 0x1FF, 0x203, u64::MAX] {
            assert_eq!(found(pfn), None);
        }
        assert!(table.any_ram(Pfn(0), 0x101) && !table.any_ram(Pfn(0), 0x100));
        assert!(table.any_ram(Pfn(0x103), 1) && !table.any_ram(Pfn(0x104), 0xFC));
    }

    #[test]
    fn regions_may_touch_each_other() {
        let words = words();
        let mut regions = REGIONS;
        regions[1].base = Pfn(0x104);
        let Ok(table) = FrameTable::new(&words, &regions) else {
            unreachable!()
        };
        assert_eq!(table.entry(Pfn(0x103)), Some(Entry::HOST));
        assert_eq!(table.entry(Pfn(0x104)), Some(Entry::HOST));
        assert_eq!(table.entry(Pfn(0x107)), None);
    }

    #[test]
    fn a_claim_takes_what_it_can_get_in_a_row() {
        let words = words();
        let Ok(table) = FrameTable::new(&words, &REGIONS) else {
            unreachable!()
        };
        let donate = &Transition::donate(VmId(1));
        assert_eq!(
            table.claim(donate, 9, Pfn(0x101), 3).err(),
            Some(Error::Denied),
            "core first"
        );
        assert_eq!(
            table.claim(donate, 9, Pfn(0x104), 3).err(),
            Some(Error::Denied),
            "not RAM"
        );
        let Ok(claim) = table.claim(donate, 9, Pfn(0x102), 8) else {
            unreachable!()
        };
        assert_eq!(claim.count(), 2, "RAM ends there");
        assert_eq!(
            table.claim(donate, 9, Pfn(0x102), 1).err(),
            Some(Error::Busy)
        );
        assert!(!table.all_host(Pfn(0x102), 2));
        claim.abandon(|_| Entry::HOST);
        assert!(table.all_host(Pfn(0x102), 2) && !table.all_host(Pfn(0x102), 3));
        let Ok(claim) = table.claim(&Transition::lend(VmId(1)), 9, Pfn(0x103), 1) else {
            unreachable!()
        };
        claim.commit(());
        let Ok(claim) = table.claim(donate, 9, Pfn(0x102), 2) else {
            unreachable!()
        };
        assert_eq!(claim.count(), 1, "the second is lent already");
    }

    #[test]
    fn an_entry_that_changed_since_the_decision_is_left_alone() {
        let word = AtomicU64::new(Entry::CORE.0);
        assert_eq!(
            make_busy(&word, Entry::HOST, Entry(0x1_0003)),
            Err(Error::Busy)
        );
        assert_eq!(word.load(Ordering::Relaxed), Entry::CORE.0);
        assert_eq!(make_busy(&word, Entry::CORE, Entry(0x1_0003)), Ok(()));
        assert_eq!(Entry(word.load(Ordering::Relaxed)), Entry(0x1_0003).busy());
    }

    #[test]
    fn of_several_cpus_one_gets_the_frame() {
        let words = words();
        let Ok(table) = FrameTable::new(&words, &REGIONS) else {
            unreachable!()
        };
        let holders = AtomicU64::new(0);
        let cpu = || {
            let mut won = 0_u64;
            while won < 50_000 {
                let Ok(claim) = table.claim(&Transition::donate(VmId(1)), 9, Pfn(0x102), 1) else {
                    core::hint::spin_loop();
                    continue;
                };
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                won += 1;
                holders.fetch_sub(1, Ordering::SeqCst);
                claim.abandon(|_| Entry::HOST);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(cpu);
            }
        });
    }
}
