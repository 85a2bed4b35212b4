//! The physical frames that VMs are made of.
//!
//! A buddy allocator in units of 4 KiB frames; guest memory is taken in naturally aligned blocks of
//! 2 MiB, so that the core can map it by blocks.

use crate::hw::Mutex;
use abi::PAGE_SHIFT;
use buddy_system_allocator::FrameAllocator;

/// Bytes of a block.
pub const BLOCK: u64 = 2 << 20;
/// Frames in a block.
pub const BLOCK_FRAMES: u64 = BLOCK >> PAGE_SHIFT;

/// Free frames.
pub struct Frames {
    buddy: FrameAllocator<33>,
    total: u64,
    free: u64,
}

/// The machine's free frames.
pub static FRAMES: Mutex<Frames> = Mutex::new(Frames::new());

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

impl Frames {
    /// None at all.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            buddy: FrameAllocator::new(),
            total: 0,
            free: 0,
        }
    }

    /// Adds the whole frames in `start..end` (bytes).
    pub fn add(&mut self, start: u64, end: u64) {
        let (first, last) = (start.div_ceil(1 << PAGE_SHIFT), end >> PAGE_SHIFT);
        if first < last {
            self.buddy.add_frame(first as usize, last as usize);
            self.total += last - first;
            self.free += last - first;
        }
    }

    fn take(&mut self, frames: u64) -> Option<u64> {
        let first = self.buddy.alloc(frames as usize)?;
        self.free -= frames;
        Some((first as u64) << PAGE_SHIFT)
    }

    fn give(&mut self, address: u64, frames: u64) {
        self.buddy
            .dealloc((address >> PAGE_SHIFT) as usize, frames as usize);
        self.free += frames;
    }

    /// Takes a 2 MiB block; answers its address.
    pub fn take_block(&mut self) -> Option<u64> {
        self.take(BLOCK_FRAMES)
    }

    /// Gives a block back that [`Self::take_block`] answered.
    pub fn give_block(&mut self, address: u64) {
        self.give(address, BLOCK_FRAMES);
    }

    /// Takes one frame; answers its address.
    pub fn take_frame(&mut self) -> Option<u64> {
        self.take(1)
    }

    /// Gives a frame back that [`Self::take_frame`] answered.
    pub fn give_frame(&mut self, address: u64) {
        self.give(address, 1);
    }

    /// Takes `frames` contiguous frames, a power of two; answers the first's address.
    pub fn take_contiguous(&mut self, frames: u64) -> Option<u64> {
        self.take(frames)
    }

    /// Gives back what [`Self::take_contiguous`] answered.
    pub fn give_contiguous(&mut self, address: u64, frames: u64) {
        self.give(address, frames);
    }

    /// Free frames.
    #[must_use]
    pub const fn free(&self) -> u64 {
        self.free
    }

    /// Frames in all.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn blocks_are_aligned_disjoint_and_all_come_back() {
        let mut frames = Frames::new();
        frames.add(0x4030_1000, 0x4200_0000);
        frames.add(0x5000_0000, 0x5080_0123);
        let total = frames.free();
        assert_eq!(total, (0x1cf_f000 + 0x80_0000) >> 12);
        for _ in 0..100 {
            let single = frames.take_frame().unwrap();
            let mut blocks: Vec<u64> = core::iter::from_fn(|| frames.take_block()).collect();
            assert!(blocks.len() >= 17);
            assert!(blocks.iter().all(|b| b % BLOCK == 0));
            blocks.sort_unstable();
            assert!(blocks.windows(2).all(|w| w[1] - w[0] >= BLOCK));
            for block in blocks {
                frames.give_block(block);
            }
            frames.give_frame(single);
            assert_eq!(frames.free(), total);
        }
        assert_eq!(frames.total(), total);
    }

    #[test]
    fn nothing_comes_of_nothing() {
        let mut frames = Frames::new();
        assert_eq!(frames.take_block(), None);
        frames.add(0x1001, 0x1fff);
        assert_eq!(frames.take_frame(), None);
    }
}
