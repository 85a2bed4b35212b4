//! Device memory on the development host: bytes in the heap under an address of the caller's choice. Clones
//! are the same memory, so that a test can play the device.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU8, Ordering, fence};

/// Memory that a device may know the address of.
#[derive(Clone, Debug)]
pub struct Dma {
    base: u64,
    bytes: Arc<[AtomicU8]>,
}

macro_rules! accessors {
    ($type:ty, $read:ident, $write:ident) => {
        /// The little-endian word at `offset`.
        #[must_use]
        pub fn $read(&self, offset: u64) -> $type {
            let mut value = [0; size_of::<$type>()];
            if let Some(bytes) = self.at(offset, value.len()) {
                for (to, from) in value.iter_mut().zip(bytes) {
                    *to = from.load(Ordering::Relaxed);
                }
            }
            <$type>::from_le_bytes(value)
        }

        /// Sets the little-endian word at `offset`.
        pub fn $write(&self, offset: u64, value: $type) {
            let value = value.to_le_bytes();
            if let Some(bytes) = self.at(offset, value.len()) {
                for (to, from) in bytes.iter().zip(value) {
                    to.store(from, Ordering::Relaxed);
                }
            }
        }
    };
}

impl Dma {
    /// Zeros.
    #[must_use]
    pub fn new(base: u64, bytes: u64) -> Option<Self> {
        let bytes = (0..bytes).map(|_| AtomicU8::new(0)).collect();
        Some(Self { base, bytes })
    }

    /// The address it was given.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.base
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn at(&self, offset: u64, width: usize) -> Option<&[AtomicU8]> {
        let offset = usize::try_from(offset).ok()?;
        let aligned = offset.is_multiple_of(width);
        let bytes = self.bytes.get(offset..offset.checked_add(width)?)?;
        aligned.then_some(bytes)
    }

    accessors!(u8, read8, write8);
    accessors!(u16, read16, write16);
    accessors!(u32, read32, write32);
    accessors!(u64, read64, write64);
}

/// A barrier.
pub fn dma_release() {
    fence(Ordering::Release);
}

/// A barrier.
pub fn dma_acquire() {
    fence(Ordering::Acquire);
}

/// A barrier.
pub fn dma_fence() {
    fence(Ordering::SeqCst);
}
