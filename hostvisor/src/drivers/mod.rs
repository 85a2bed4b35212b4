//! The machine's virtio devices: finding them, and what all their drivers share.
//!
//! The `virtio-drivers` crate knows the transports' registers and drives a device's initialisation. Its queues and
//! device drivers are not used: they take buffers as Rust slices, which memory that guests write must never be
//! behind, and wait for answers. [`queue`] and the drivers in [`crate::storage`] and [`crate::net`] name buffers
//! by physical address, and wait for nothing.

mod pci;
pub mod port;
pub mod probe;
pub mod queue;
pub mod setup;

pub use port::Port;
pub use queue::Queue;
