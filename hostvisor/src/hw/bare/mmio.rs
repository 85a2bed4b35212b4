//! Device registers.

use super::mmu;
use crate::hw::pagetable::Kind;
use abi::PAGE_SIZE;

/// A range of device registers, mapped as Device-nGnRE.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: u64,
    size: u64,
}

impl Mmio {
    /// Maps the device registers at `base`. `None` if that cannot be mapped, or is RAM: discovery calls
    /// this with what the device tree says before and after RAM is mapped, and a range that RAM is
    /// mapped in stays RAM.
    #[must_use]
    pub fn map(base: u64, size: u64) -> Option<Self> {
        let end = base.checked_add(size)?;
        if size == 0
            || mmu::is_ram(base, end)
            || !mmu::map(base & !(PAGE_SIZE - 1), end, Kind::Device)
        {
            return None;
        }
        Some(Self { base, size })
    }

    /// First address and size.
    pub(super) const fn range(self) -> (u64, u64) {
        (self.base, self.size)
    }

    #[inline]
    const fn at(self, offset: u64, width: u64) -> Option<u64> {
        // Offsets are constants or bounded by the drivers; one beyond the range does nothing.
        if self.size >= width && offset <= self.size - width {
            Some(self.base + offset)
        } else {
            None
        }
    }

    /// Reads a 32-bit register; 0 outside the range.
    #[inline]
    #[must_use]
    pub fn read32(self, offset: u64) -> u32 {
        // SAFETY: inside a range that `map` mapped as device memory.
        self.at(offset, 4)
            .map_or(0, |at| unsafe { (at as *const u32).read_volatile() })
    }

    /// Writes a 32-bit register.
    #[inline]
    pub fn write32(self, offset: u64, value: u32) {
        if let Some(at) = self.at(offset, 4) {
            // SAFETY: as for `read32`. What makes a device write memory names frames of the pool only, in which no
            // Rust object lives.
            unsafe { (at as *mut u32).write_volatile(value) }
        }
    }

    /// Reads a 64-bit register; 0 outside the range.
    #[inline]
    #[must_use]
    pub fn read64(self, offset: u64) -> u64 {
        // SAFETY: as for `read32`.
        self.at(offset, 8)
            .map_or(0, |at| unsafe { (at as *const u64).read_volatile() })
    }

    /// Writes a 64-bit register.
    #[inline]
    pub fn write64(self, offset: u64, value: u64) {
        if let Some(at) = self.at(offset, 8) {
            // SAFETY: as for `write32`.
            unsafe { (at as *mut u64).write_volatile(value) }
        }
    }

    /// Reads an 8-bit register; 0 outside the range.
    #[inline]
    #[must_use]
    pub fn read8(self, offset: u64) -> u8 {
        // SAFETY: as for `read32`.
        self.at(offset, 1)
            .map_or(0, |at| unsafe { (at as *const u8).read_volatile() })
    }

    /// Writes an 8-bit register.
    #[inline]
    pub fn write8(self, offset: u64, value: u8) {
        if let Some(at) = self.at(offset, 1) {
            // SAFETY: as for `write32`.
            unsafe { (at as *mut u8).write_volatile(value) }
        }
    }

    /// Reads a 16-bit register; 0 outside the range.
    #[inline]
    #[must_use]
    pub fn read16(self, offset: u64) -> u16 {
        // SAFETY: as for `read32`.
        self.at(offset, 2)
            .map_or(0, |at| unsafe { (at as *const u16).read_volatile() })
    }

    /// Writes a 16-bit register.
    #[inline]
    pub fn write16(self, offset: u64, value: u16) {
        if let Some(at) = self.at(offset, 2) {
            // SAFETY: as for `write32`.
            unsafe { (at as *mut u16).write_volatile(value) }
        }
    }
}
