//! The real hardware.

mod call;
mod copy;
mod dma;
mod entry;
mod heap;
mod memory;
mod mmio;
mod mmu;
mod regs;
mod vectors;
mod virtio;

pub use call::{hypercall, smc};
pub use copy::{Window, count_complement, pool_copy, pool_read, pool_write};
pub use dma::{Dma, dma_acquire, dma_fence, dma_release};
pub use entry::start_cpu;
pub use heap::{heap_add, heap_stats};
pub use memory::{
    RunPage, boot_bytes, boot_words, pool_add, pool_clean, pool_zero, probe, probe_write,
    publish_code,
};
pub use mmio::Mmio;
pub use mmu::map_ram;
pub use regs::{
    acknowledge, cpu_index, end_of_interrupt, frequency, gic_cpu_init, mpidr, now, publish, relax,
    send_sgi, set_deadline, timer_init, wait_for_interrupt,
};
pub use vectors::{fatal, set_panic_output};
pub use virtio::{Ecam, virtio_mmio, virtio_pci};
