//! Memory for the hostvisor's own use of devices: from the frame pool, as guests' memory is, never from the heap.
//!
//! Devices of a machine that there is no SMMU driver for reach all of memory; that they are told of frames in the
//! pool alone keeps a driver's mistake out of the hostvisor's objects, not a device's malice.

use crate::frames::FRAMES;
use crate::hw::Dma;
use abi::PAGE_SHIFT;

/// `bytes` or more of zeroed, contiguous frames. What drives a device keeps them for ever, as the device does.
pub fn allocate(bytes: u64) -> Option<Dma> {
    let frames = bytes.div_ceil(1 << PAGE_SHIFT).max(1).next_power_of_two();
    let base = FRAMES.lock().take_contiguous(frames)?;
    let memory = Dma::new(base, frames << PAGE_SHIFT);
    if memory.is_none() {
        FRAMES.lock().give_contiguous(base, frames);
    }
    memory
}

/// Gives frames back that no device knows of any more.
pub fn release(memory: Dma) {
    let frames = memory.bytes() >> PAGE_SHIFT;
    FRAMES.lock().give_contiguous(memory.address(), frames);
}
