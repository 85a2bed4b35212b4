//! Initialising a device: reset, features, queues (virtio 1.2 §3.1.1).

use super::port::within_reset_time;
use super::queue::Queue;
use crate::dma;
use core::fmt;
use virtio_drivers::transport::{DeviceStatus, Transport};

/// VIRTIO_F_INDIRECT_DESC.
pub const INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub const EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1.
pub const VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_ACCESS_PLATFORM: an IOMMU may be in the way. There is none that is driven here, and accepting
/// says that physical addresses are what the device is given.
pub const ACCESS_PLATFORM: u64 = 1 << 33;

/// Why a device is not driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Lacks VERSION_1: a device of before the standard.
    Legacy,
    /// Lacks features that the driver cannot do without.
    Features(u64),
    /// Did not accept what the driver chose.
    Negotiation,
    /// Has not the queues that its type must have.
    NoQueue(u16),
    /// Its configuration cannot be read or makes no sense.
    Config,
    /// No memory for its queues.
    NoMemory,
    /// Does not answer.
    Silent,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Legacy => write!(f, "legacy device: must offer VIRTIO_F_VERSION_1"),
            Self::Features(missing) => write!(f, "lacks features {missing:#x}"),
            Self::Negotiation => write!(f, "did not accept the driver's features"),
            Self::NoQueue(index) => write!(f, "has no queue {index}"),
            Self::Config => write!(f, "its configuration makes no sense"),
            Self::NoMemory => write!(f, "no memory for its queues"),
            Self::Silent => write!(f, "does not answer"),
        }
    }
}

/// Resets the device and agrees on features: `needed`, and what it has of `wanted`.
pub fn negotiate<T: Transport>(
    transport: &mut T,
    needed: u64,
    wanted: u64,
) -> Result<u64, Refused> {
    transport.set_status(DeviceStatus::empty());
    if !within_reset_time(|| transport.get_status().is_empty()) {
        return Err(Refused::Silent);
    }
    transport.set_status(DeviceStatus::ACKNOWLEDGE);
    transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
    let offered = transport.read_device_features();
    if offered & VERSION_1 == 0 {
        return Err(Refused::Legacy);
    }
    let missing = needed & !offered;
    if missing != 0 {
        return Err(Refused::Features(missing));
    }
    let chosen = offered & (needed | wanted | VERSION_1 | ACCESS_PLATFORM);
    transport.write_driver_features(chosen);
    let status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK;
    transport.set_status(status);
    if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
        return Err(Refused::Negotiation);
    }
    Ok(chosen)
}

/// Gives the device its queue `index`, of at most `max` descriptors, a power of two.
pub fn queue<T: Transport>(
    transport: &mut T,
    index: u16,
    max: u16,
    features: u64,
) -> Result<Queue, Refused> {
    let offered = transport.max_queue_size(index).min(u32::from(max)) as u16;
    if offered < 2 {
        return Err(Refused::NoQueue(index));
    }
    // The largest power of two that is not more than offered.
    let size = 1 << offered.ilog2();
    let ring = dma::allocate(Queue::bytes(size)).ok_or(Refused::NoMemory)?;
    let queue = Queue::new(ring, size, features & EVENT_IDX != 0).ok_or(Refused::NoMemory)?;
    let [descriptors, driver, device] = queue.addresses();
    transport.queue_set(index, u32::from(size), descriptors, driver, device);
    Ok(queue)
}

/// The driver is ready: the device may work.
pub fn finish<T: Transport>(transport: &mut T) {
    transport.finish_init();
}

/// A byte of the configuration.
pub fn config8<T: Transport>(transport: &T, offset: usize) -> Result<u8, Refused> {
    let value = transport.read_config_space(offset);
    value.map_err(|_| Refused::Config)
}

/// A 16-bit word of the configuration.
pub fn config16<T: Transport>(transport: &T, offset: usize) -> Result<u16, Refused> {
    let value = transport.read_config_space(offset);
    value.map_err(|_| Refused::Config)
}

/// A 32-bit word of the configuration.
pub fn config32<T: Transport>(transport: &T, offset: usize) -> Result<u32, Refused> {
    let value = transport.read_config_space(offset);
    value.map_err(|_| Refused::Config)
}

/// A 64-bit word of the configuration, both halves of the same time (§2.5.3).
pub fn config64<T: Transport>(transport: &T, offset: usize) -> Result<u64, Refused> {
    const TRIES: usize = 16;
    for _ in 0..TRIES {
        let before = transport.read_config_generation();
        let low = config32(transport, offset)?;
        let high = config32(transport, offset + 4)?;
        if transport.read_config_generation() == before {
            return Ok(u64::from(low) | u64::from(high) << 32);
        }
    }
    Err(Refused::Config)
}
