//! The hostvisor: everything a hypervisor does besides isolating. It runs at EL1 under the corevisor's
//! stage 2, and nobody trusts it.
//!
//! One run-to-completion loop a CPU ([`start`]): poll interrupts, run soft timers, on CPU 0 serve console
//! and management, run a vCPU until it needs something. Interrupts are never taken as exceptions.
//! Unsafe code is in [`hw`] only.

#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod clock;
pub mod console;
pub mod cpu;
pub mod devices;
pub mod dma;
pub mod drivers;
pub mod frames;
pub mod gic;
pub mod guest_tree;
pub mod hw;
pub mod interrupts;
pub mod log;
pub mod machine;
pub mod net;
pub mod random;
pub mod ring;
pub mod scan;
pub mod sched;
pub mod seed;
pub mod segment;
pub mod service;
pub mod shell;
pub mod start;
pub mod storage;
pub mod timer;
pub mod uart;
pub mod vgic;
pub mod virtio;
pub mod virtqueue;
pub mod vm;
pub mod watch;
