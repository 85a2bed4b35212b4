//! EL2 mechanism: present on the target only.
pub mod cache;
pub mod cpu;
mod fp;
mod gic;
mod gich;
pub mod memory;
pub mod mmu;
pub mod psci;
pub mod redist;
pub mod uart;
pub mod world;
