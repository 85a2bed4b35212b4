//! No transports on the development host, and a configuration space that lies in memory, for tests.

use super::Mmio;
use crate::hw::Mutex;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use virtio_drivers::transport::SomeTransport;
use virtio_drivers::transport::mmio::MmioError;
use virtio_drivers::transport::pci::VirtioPciError;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction, PciRoot};

/// None.
pub fn virtio_mmio(_registers: Mmio) -> Result<SomeTransport<'static>, MmioError> {
    Err(MmioError::MmioRegionTooSmall)
}

/// None.
pub fn virtio_pci(
    _root: &mut PciRoot<Ecam>,
    _function: DeviceFunction,
) -> Result<SomeTransport<'static>, VirtioPciError> {
    Err(VirtioPciError::MissingCommonConfig)
}

/// A register: what it holds, and which bits can be written.
type Register = (u32, u32);

/// A configuration space in memory. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Ecam(Arc<Mutex<BTreeMap<(DeviceFunction, u8), Register>>>);

impl Ecam {
    /// Bytes of one bus.
    pub const BUS: u64 = 1 << 20;

    /// None.
    #[must_use]
    pub fn map(_base: u64, _bus: u8) -> Option<Self> {
        None
    }

    /// Makes a register, of which the bits in `writable` can be written.
    pub fn define(&self, function: DeviceFunction, register: u8, value: u32, writable: u32) {
        self.0
            .lock()
            .insert((function, register), (value, writable));
    }
}

impl ConfigurationAccess for Ecam {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        let space = self.0.lock();
        let absent = if register == 0 { u32::MAX } else { 0 };
        space.get(&(function, register)).map_or(absent, |r| r.0)
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, value: u32) {
        if let Some((old, writable)) = self.0.lock().get_mut(&(function, register)) {
            *old = *old & !*writable | value & *writable;
        }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}
