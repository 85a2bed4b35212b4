//! The page-table pool: frames reserved at boot that become stage-2 tables.

use crate::invariant::broken;
use crate::lock::{self, Lock};
use abi::{Error, Pfn};
use arch::descriptor::Descriptor;
use arch::hal::{Memory, Tlb};
use core::sync::atomic::Ordering;

/// What the memory code asks of the machine, in one name.
pub trait Platform: Memory + Tlb {}
impl<T: Memory + Tlb> Platform for T {}

/// Most frames one change needs: two for a split in the hostvisor's table and two new in a VM's.
pub const RESERVE_MOST: usize = 4;

/// A frame of the pool in the hands of one owner. Neither copied nor made up: a table descriptor made
/// from it ([`TableFrame::link`]) carries it on until that descriptor is taken out of its table.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct TableFrame(Pfn);

impl TableFrame {
    /// The frame's number.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.0
    }

    /// The descriptor that carries this frame from now on.
    pub(crate) const fn link(self) -> Descriptor {
        Descriptor::table(self.0.base())
    }

    /// Takes the frame back from a table descriptor that no table holds any longer.
    pub(crate) const fn unlinked(table: abi::PhysAddr) -> Self {
        Self(Pfn::of(table))
    }
}

/// Frames are handed out from the end that was never used first, and from the list of frames given
/// back, linked through their first words, once there are any.
struct FreeFrames {
    /// 0, or the first frame of the list as `(pfn + 1) << 1`: even, so that a free frame never looks
    /// like a table with a valid descriptor.
    head: u64,
    fresh: u64,
    end: u64,
    free: u64,
}

/// All frames that may hold stage-2 tables.
pub struct Pool<'a, P> {
    platform: &'a P,
    frames: Lock<{ lock::POOL }, FreeFrames>,
}

impl<'a, P: Platform> Pool<'a, P> {
    /// The pool of `count` frames from `base` on. They are RAM, in state Core, and nobody else's.
    pub const fn new(platform: &'a P, base: Pfn, count: u64) -> Self {
        let frames = FreeFrames {
            head: 0,
            fresh: base.0,
            end: base.0 + count,
            free: count,
        };
        Self {
            platform,
            frames: Lock::new(frames),
        }
    }

    /// The machine.
    pub const fn platform(&self) -> &'a P {
        self.platform
    }

    /// Head of the free list, first frame never used, frames free: for the simulation.
    #[cfg(any(test, feature = "sim"))]
    pub fn words(&self) -> [u64; 3] {
        let frames = self.frames.lock();
        [frames.head, frames.fresh, frames.free]
    }

    /// Puts [`Self::words`] back.
    #[cfg(any(test, feature = "sim"))]
    pub fn set_words(&self, words: [u64; 3]) {
        let mut frames = self.frames.lock();
        [frames.head, frames.fresh, frames.free] = words;
    }

    /// Frames free at the moment.
    pub fn free_count(&self) -> u64 {
        self.frames.lock().free
    }

    /// A frame full of invalid descriptors, or [`Error::NoMemory`].
    pub fn alloc(&self) -> Result<TableFrame, Error> {
        let frame = self.pop()?;
        self.clear(&frame);
        Ok(frame)
    }

    /// At boot: `count` (a power of two) frames in a row, aligned as a whole, as a root table. They
    /// stay with their owner for ever; the token names the first.
    pub fn alloc_root(&self, count: u64) -> Result<TableFrame, Error> {
        loop {
            let mut frames = self.frames.lock();
            if frames.end.saturating_sub(frames.fresh) < count {
                return Err(Error::NoMemory);
            }
            let first = frames.fresh;
            if first & (count - 1) == 0 {
                frames.fresh += count;
                frames.free -= count;
                drop(frames);
                for pfn in first..first + count {
                    self.clear(&TableFrame(Pfn(pfn)));
                }
                return Ok(TableFrame(Pfn(first)));
            }
            // Below the first aligned frame: hand it to the list.
            frames.fresh += 1;
            frames.free -= 1;
            drop(frames);
            self.free(TableFrame(Pfn(first)));
        }
    }

    /// Gives a frame back. No table, and no TLB, refers to it any longer.
    pub fn free(&self, frame: TableFrame) {
        let mut frames = self.frames.lock();
        if let Some(word) = self.platform.words(frame.0).first() {
            word.store(frames.head, Ordering::Relaxed);
        }
        frames.head = (frame.0.0 + 1) << 1;
        frames.free += 1;
    }

    /// Sets `count` (at most [`RESERVE_MOST`]) frames aside, all or none.
    pub fn reserve(&self, count: usize) -> Result<Reserve<'_, 'a, P>, Error> {
        let mut reserve = Reserve {
            pool: self,
            frames: [const { None }; RESERVE_MOST],
        };
        for slot in reserve.frames.iter_mut().take(count) {
            *slot = Some(self.alloc()?);
        }
        Ok(reserve)
    }

    fn pop(&self) -> Result<TableFrame, Error> {
        let mut frames = self.frames.lock();
        let pfn = if frames.head != 0 {
            let pfn = (frames.head >> 1) - 1;
            let next = self.platform.words(Pfn(pfn)).first();
            frames.head = next.map_or(0, |word| word.load(Ordering::Relaxed));
            pfn
        } else if frames.fresh < frames.end {
            frames.fresh += 1;
            frames.fresh - 1
        } else {
            return Err(Error::NoMemory);
        };
        frames.free -= 1;
        Ok(TableFrame(Pfn(pfn)))
    }

    fn clear(&self, frame: &TableFrame) {
        for word in self.platform.words(frame.0) {
            word.store(Descriptor::INVALID.0, Ordering::Relaxed);
        }
    }
}

/// Table frames set aside for one change, so that it cannot fail halfway. What is not used goes back.
#[must_use]
pub struct Reserve<'p, 'a, P: Platform> {
    pool: &'p Pool<'a, P>,
    frames: [Option<TableFrame>; RESERVE_MOST],
}

impl<P: Platform> Reserve<'_, '_, P> {
    /// The next frame. The change counted before what it needs, so there is one.
    pub(crate) fn take(&mut self) -> TableFrame {
        match self.frames.iter_mut().find_map(Option::take) {
            Some(frame) => frame,
            None => broken("a table change needs more frames than it counted"),
        }
    }
}

impl<P: Platform> Drop for Reserve<'_, '_, P> {
    fn drop(&mut self) {
        for frame in self.frames.iter_mut().filter_map(Option::take) {
            self.pool.free(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame_table::RamRegion;
    use crate::sim::Machine;

    const BASE: u64 = 0x4_0005;

    fn machine() -> Machine {
        Machine::new(&[RamRegion {
            base: Pfn(BASE),
            frames: 16,
        }])
    }

    #[test]
    fn every_frame_is_handed_out_once_and_clear() {
        let machine = machine();
        let pool = Pool::new(&machine, Pfn(BASE), 16);
        for _ in 0..3 {
            let mut taken: Vec<_> = std::iter::from_fn(|| pool.alloc().ok()).collect();
            assert_eq!((pool.free_count(), pool.alloc()), (0, Err(Error::NoMemory)));
            taken.sort_by_key(TableFrame::pfn);
            assert!(taken.iter().map(|f| f.pfn().0).eq(BASE..BASE + 16));
            for frame in taken {
                for word in machine.words(frame.pfn()) {
                    assert_eq!(word.swap(3, Ordering::Relaxed), 0);
                }
                pool.free(frame);
            }
            assert_eq!(pool.free_count(), 16);
        }
    }

    #[test]
    fn a_root_is_aligned_and_loses_no_frame() {
        let machine = machine();
        let pool = Pool::new(&machine, Pfn(BASE), 16);
        assert_eq!(pool.alloc_root(8).map(|f| f.pfn().0), Ok(0x4_0008));
        assert_eq!(pool.free_count(), 8);
        assert_eq!(pool.alloc_root(8), Err(Error::NoMemory));
        let rest: Vec<_> = std::iter::from_fn(|| pool.alloc().ok()).collect();
        assert_eq!(rest.len(), 8);
        let exact = Pool::new(&machine, Pfn(0x4_0008), 8);
        assert_eq!(exact.alloc_root(8).map(|f| f.pfn().0), Ok(0x4_0008));
        assert_eq!(exact.free_count(), 0);
    }

    #[test]
    fn a_reserve_is_all_or_nothing_and_returns_what_is_left() {
        let machine = machine();
        let pool = Pool::new(&machine, Pfn(BASE), 3);
        assert!(pool.reserve(4).is_err());
        assert_eq!(pool.free_count(), 3);
        let Ok(mut reserve) = pool.reserve(3) else {
            unreachable!()
        };
        let frame = reserve.take();
        drop(reserve);
        assert_eq!(pool.free_count(), 2);
        pool.free(frame);
    }
}
