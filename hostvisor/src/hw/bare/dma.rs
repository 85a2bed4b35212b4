//! Memory that the machine's devices read and write while this program does: rings and buffers.

use super::memory::{pool_zero, wholly_in_pool};
use abi::PAGE_SIZE;
use core::arch::asm;

/// A range of the frame pool that a device may know the address of. Whole pages, contiguous.
///
/// Every access is a volatile one of its own: what the device changes is seen at the next read, and nothing
/// is read twice. An access outside the range does nothing and reads 0.
#[derive(Debug)]
pub struct Dma {
    base: u64,
    bytes: u64,
}

macro_rules! accessors {
    ($type:ty, $read:ident, $write:ident) => {
        /// The little-endian word at `offset`, a multiple of its size.
        #[inline]
        #[must_use]
        pub fn $read(&self, offset: u64) -> $type {
            self.at(offset, size_of::<$type>() as u64)
                // SAFETY: mapped pool memory by `new`, inside the range and aligned by `at`; no Rust object
                // lives in it, so that a device's writes race with nothing but volatile accesses.
                .map_or(0, |at| unsafe { (at as *const $type).read_volatile() })
        }

        /// Sets the little-endian word at `offset`, a multiple of its size.
        #[inline]
        pub fn $write(&self, offset: u64, value: $type) {
            if let Some(at) = self.at(offset, size_of::<$type>() as u64) {
                // SAFETY: as for reading.
                unsafe { (at as *mut $type).write_volatile(value) }
            }
        }
    };
}

impl Dma {
    /// The frames at `base`, zeroed. `None` if they are not pool memory or not whole pages.
    #[must_use]
    pub fn new(base: u64, bytes: u64) -> Option<Self> {
        let whole = base.is_multiple_of(PAGE_SIZE) && bytes.is_multiple_of(PAGE_SIZE) && bytes != 0;
        (whole && wholly_in_pool(base, bytes) && pool_zero(base, bytes))
            .then_some(Self { base, bytes })
    }

    /// Physical address of the first byte: what devices are told.
    #[inline]
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.base
    }

    /// Bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    #[inline]
    const fn at(&self, offset: u64, width: u64) -> Option<u64> {
        if offset <= self.bytes - width && offset & (width - 1) == 0 {
            Some(self.base + offset)
        } else {
            None
        }
    }

    accessors!(u8, read8, write8);
    accessors!(u16, read16, write16);
    accessors!(u32, read32, write32);
    accessors!(u64, read64, write64);
}

/// What was written to memory before is seen by devices before what is written after.
#[inline]
pub fn dma_release() {
    // SAFETY: a barrier.
    unsafe { asm!("dmb oshst", options(nostack, preserves_flags)) };
}

/// What is read after was written by a device no earlier than what was read before.
#[inline]
pub fn dma_acquire() {
    // SAFETY: a barrier.
    unsafe { asm!("dmb oshld", options(nostack, preserves_flags)) };
}

/// What was written before is seen by devices before anything is read after.
#[inline]
pub fn dma_fence() {
    // SAFETY: a barrier.
    unsafe { asm!("dmb osh", options(nostack, preserves_flags)) };
}
