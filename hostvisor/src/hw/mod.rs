//! The hardware: the only module with unsafe code.
//!
//! On bare metal ([`bare`]) it owns the entry stub, the EL1 MMU, exception vectors, the heap and
//! every touch of a system register, of device memory or of physical memory. It decides nothing. Its
//! functions are safe to call: device memory is reached only through ranges it has mapped as such,
//! RAM only inside the frame pool that no Rust object lives in.
//!
//! On a development host (`host`) the same functions exist and do as good as nothing, so that the
//! rest of the crate builds and its pure parts are tested there.

mod lock;
pub mod pagetable;

pub use lock::Mutex;

#[cfg(target_os = "none")]
#[allow(unsafe_code)]
mod bare;
#[cfg(target_os = "none")]
pub use bare::*;

#[cfg(not(target_os = "none"))]
mod host;
#[cfg(not(target_os = "none"))]
pub use host::*;

/// True if less than a quarter of the heap is free. What a guest can have more and more of is not given then: the rest
/// is for what every CPU and VM needs.
#[must_use]
pub fn heap_is_low() -> bool {
    let (used, total) = heap_stats();
    used > total / 4 * 3
}

impl Dma {
    /// Copies bytes from `offset`, a multiple of 8, on. For what is read once in a while.
    pub fn read(&self, offset: u64, to: &mut [u8]) {
        for (i, chunk) in (0..).zip(to.chunks_mut(8)) {
            let word = self.read64(offset + i * 8).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// What the corevisor hands over at entry.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// Physical address of the machine's device tree.
    pub fdt: u64,
    /// Physical address of the hostvisor's image.
    pub image: u64,
    /// Bytes from `image` on that are the hostvisor's: image, .bss, heap.
    pub reserved: u64,
    /// The corevisor's RAM: an array of (base, size) pairs of 64-bit words.
    pub core_regions: u64,
    /// Number of pairs.
    pub core_region_count: u64,
}

/// Answer of a hypercall: x1–x4.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    /// x1–x4.
    pub values: [u64; 4],
}

/// A synchronous abort that a probe met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
}

/// Pool memory that cannot be reached: it is not pool memory, or a protected VM has not shared it (any more).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreachable;

/// Which side of a copy could not be reached: the two may belong to different VMs, one of which is to blame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyFault {
    /// What was to be read.
    Source,
    /// What was to be written.
    Target,
}
