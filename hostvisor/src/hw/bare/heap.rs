//! The heap: a buddy allocator, first over what is left of the hostvisor's reserved memory.

use buddy_system_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap<27> = LockedHeap::empty();

unsafe extern "C" {
    static __image_end: u8;
}

/// Gives the memory between the end of the image and the end of the reserved range to the heap.
pub(super) fn init(image: u64, reserved: u64) {
    let start = (&raw const __image_end).addr();
    let end = (image + reserved) as usize;
    if start < end {
        // SAFETY: the corevisor reserved this range for the hostvisor; it is mapped, and nothing
        // else uses what lies behind the image.
        unsafe { HEAP.lock().add_to_heap(start, end) };
    }
}

/// Adds RAM at `start` to the heap for good. The caller has taken it out of everything else.
pub(super) fn add(start: u64, bytes: u64) {
    // SAFETY: by this module's contract with `memory::heap_add`, the range is mapped pool memory that
    // has been struck off the pool.
    unsafe {
        HEAP.lock()
            .add_to_heap(start as usize, (start + bytes) as usize)
    };
}

/// Adds the 2 MiB-aligned range to the heap for good: before it becomes part of the frame pool.
/// Refused (false) once the range is in the pool.
pub fn heap_add(start: u64, bytes: u64) -> bool {
    if super::memory::in_pool(start, bytes) {
        return false;
    }
    add(start, bytes);
    true
}

/// Heap bytes in use and in all.
pub fn heap_stats() -> (u64, u64) {
    let heap = HEAP.lock();
    (
        heap.stats_alloc_actual() as u64,
        heap.stats_total_bytes() as u64,
    )
}
