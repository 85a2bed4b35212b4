//! EL2 mechanism: present on the target only.
pub mod cpu;
pub mod memory;
pub mod world;
mod fp;
mod gic;
pub mod cache;
pub mod mmu;
pub mod psci;
pub mod redist;
pub mod uart;
