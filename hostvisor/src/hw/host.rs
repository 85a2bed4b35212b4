//! The development host's stand-in: every call to the corevisor is refused, there are no devices, and
//! no RAM but what tests make. Only for building and unit tests.

mod ram;

mod dma;
#[allow(unsafe_code, reason = "a trait's function is declared so")]
mod virtio;

use super::{Answer, Fault};
use abi::{Error, HostCall};
use core::fmt;

pub use dma::{Dma, dma_acquire, dma_fence, dma_release};
pub use ram::{TestRam, Window, pool_copy, pool_read, pool_write};
pub use virtio::{Ecam, virtio_mmio, virtio_pci};

/// Refused.
pub fn hypercall(_call: HostCall, _args: [u64; 4]) -> Result<Answer, Error> {
    Err(Error::NotSupported)
}

/// PSCI NOT_SUPPORTED.
pub fn smc(_function: u32, _args: [u64; 3]) -> i64 {
    abi::psci::NOT_SUPPORTED
}

/// PSCI NOT_SUPPORTED.
pub fn start_cpu(_index: usize, _mpidr: u64) -> i64 {
    abi::psci::NOT_SUPPORTED
}

/// No.
pub fn heap_add(_start: u64, _bytes: u64) -> bool {
    false
}

/// As good as none in use; in unit tests what [`tests::set_heap_used`] says.
pub fn heap_stats() -> (u64, u64) {
    #[cfg(test)]
    let used = tests::HEAP_USED.get();
    #[cfg(not(test))]
    let used = 0;
    (used, 100)
}

/// What unit tests want of the machine.
#[cfg(test)]
pub mod tests {
    use core::cell::Cell;

    std::thread_local! {
        pub(super) static HEAP_USED: Cell<u64> = const { Cell::new(0) };
    }

    /// So much of the heap is in use from now on, in percent, for this thread.
    pub fn set_heap_used(percent: u64) {
        HEAP_USED.set(percent);
    }
}

/// A run page of its own.
#[derive(Debug)]
pub struct RunPage([core::sync::atomic::AtomicU64; 512]);

impl RunPage {
    /// A page of zeros.
    #[must_use]
    pub fn new(_address: u64) -> Option<Self> {
        Some(Self([const { core::sync::atomic::AtomicU64::new(0) }; 512]))
    }

    /// Word `index`.
    #[must_use]
    pub fn read(&self, index: usize) -> u64 {
        self.0[index % 512].load(core::sync::atomic::Ordering::Relaxed)
    }

    /// Sets word `index`.
    pub fn write(&self, index: usize, value: u64) {
        self.0[index % 512].store(value, core::sync::atomic::Ordering::Relaxed);
    }
}

/// None.
#[must_use]
pub fn boot_bytes(_start: u64, _bytes: u64) -> Option<&'static [u8]> {
    None
}

/// None.
#[must_use]
pub fn boot_words(_start: u64, _count: u64) -> Option<&'static [u64]> {
    None
}

/// No.
pub fn pool_add(_start: u64, _end: u64) -> bool {
    false
}

/// No.
pub fn pool_zero(_start: u64, _bytes: u64) -> bool {
    false
}

/// No.
pub fn pool_clean(_start: u64, _bytes: u64) -> bool {
    false
}

/// Nothing.
pub fn publish_code() {}

/// A fault.
pub fn probe(at: u64) -> Result<u64, Fault> {
    Err(Fault { esr: 0, far: at })
}

/// Nothing can be read.
pub fn count_complement(_page: u64, _complement: u64) -> Result<u64, crate::hw::Unreachable> {
    Err(crate::hw::Unreachable)
}

/// Not allowed.
pub fn probe_write(_at: u64, _value: u64, _foreign: &[(u64, u64)]) -> Option<Result<(), Fault>> {
    None
}

/// A range of device registers that there is none of.
#[derive(Clone, Copy, Debug)]
pub struct Mmio;

impl Mmio {
    /// None.
    #[must_use]
    pub fn map(_base: u64, _size: u64) -> Option<Self> {
        None
    }

    /// 0.
    #[must_use]
    pub fn read32(self, _offset: u64) -> u32 {
        0
    }

    /// Nothing.
    pub fn write32(self, _offset: u64, _value: u32) {}

    /// 0.
    #[must_use]
    pub fn read8(self, _offset: u64) -> u8 {
        0
    }

    /// Nothing.
    pub fn write8(self, _offset: u64, _value: u8) {}

    /// 0.
    #[must_use]
    pub fn read16(self, _offset: u64) -> u16 {
        0
    }

    /// Nothing.
    pub fn write16(self, _offset: u64, _value: u16) {}

    /// 0.
    #[must_use]
    pub fn read64(self, _offset: u64) -> u64 {
        0
    }

    /// Nothing.
    pub fn write64(self, _offset: u64, _value: u64) {}
}

/// No.
pub fn map_ram(_start: u64, _end: u64) -> bool {
    false
}

/// None pending.
#[must_use]
pub fn acknowledge() -> u32 {
    1023
}

/// CPU 0.
#[must_use]
pub fn cpu_index() -> usize {
    0
}

/// Nothing.
pub fn end_of_interrupt(_intid: u32) {}

/// 1 GHz.
#[must_use]
pub fn frequency() -> u64 {
    1_000_000_000
}

/// Nothing.
pub fn gic_cpu_init() {}

/// 0.
#[must_use]
pub fn mpidr() -> u64 {
    0
}

/// 0.
#[must_use]
pub fn now() -> u64 {
    0
}

/// Nothing.
pub fn publish() {}

/// Nothing.
pub fn send_sgi(_intid: u32, _mpidr: u64) {}

/// Nothing.
pub fn set_deadline(_deadline: u64) {}

/// Nothing.
pub fn timer_init() {}

/// Tells the processor that this is a loop.
pub fn relax() {
    core::hint::spin_loop();
}

/// Nothing.
pub fn wait_for_interrupt() {
    relax();
}

/// Panics.
pub fn fatal(why: fmt::Arguments<'_>) -> ! {
    panic!("{why}")
}

/// Nothing.
pub fn set_panic_output(_uart: Mmio) {}
