//! Devices for guests: virtio 1.2 over virtio-mmio.
//!
//! [`mmio`] is the register file, [`queue`] the device's side of a virtqueue, [`device`] what a device is to
//! both. Whatever is read from a guest, registers, rings and buffers, may be made to harm: it is copied, then
//! checked, and what breaks the rules stops that device and nothing else.

pub mod blk;
pub mod bus;
pub mod console;
pub mod device;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
#[cfg(not(target_os = "none"))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod transfer;
