//! What the entry stub needs, and where it arrives.

use abi::MAX_CPUS;
use core::cell::UnsafeCell;

/// Bytes of a CPU's stack.
pub const STACK: usize = 64 << 10;

#[repr(C, align(4096))]
pub struct Shared<T>(UnsafeCell<T>);

// SAFETY: only the entry stub writes the table, before Rust runs; each CPU uses its own stack only.
unsafe impl<T> Sync for Shared<T> {}

/// Level-1 table.
pub static TABLE: Shared<[u64; 512]> = Shared(UnsafeCell::new([0; 512]));
/// Stacks.
#[unsafe(link_section = ".stacks")]
pub static STACKS: Shared<[u8; STACK * MAX_CPUS]> = Shared(UnsafeCell::new([0; STACK * MAX_CPUS]));

unsafe extern "C" {
    fn other_start();
}

/// Where another CPU shall enter.
pub fn other_entry() -> u64 {
    other_start as unsafe extern "C" fn() as usize as u64
}

pub extern "C" fn first(tree: u64, image: u64, reserved: u64, regions: u64, count: u64) -> ! {
    crate::frames::init(tree, image, reserved, regions, count);
    crate::suite::run()
}

pub extern "C" fn other(index: u64) -> ! {
    crate::smp::serve(index as usize)
}
