//! What the entry stub needs, and where it arrives.

use abi::MAX_CPUS;
use core::cell::UnsafeCell;

/// Bytes of a CPU's stack.
pub(crate) const STACK: usize = 64 << 10;

#[repr(C, align(4096))]
pub(crate) struct Shared<T>(UnsafeCell<T>);

// SAFETY: only the entry stub writes the table, before Rust runs; each CPU uses its own stack only.
unsafe impl<T> Sync for Shared<T> {}

/// Level-1 table.
pub(crate) static TABLE: Shared<[u64; 512]> = Shared(UnsafeCell::new([0; 512]));
/// Stacks.
#[unsafe(link_section = ".stacks")]
pub(crate) static STACKS: Shared<[u8; STACK * MAX_CPUS]> =
    Shared(UnsafeCell::new([0; STACK * MAX_CPUS]));

unsafe extern "C" {
    fn other_start();
}

/// Where another CPU shall enter.
pub(crate) fn other_entry() -> u64 {
    other_start as unsafe extern "C" fn() as usize as u64
}

pub(crate) extern "C" fn first(
    tree: u64,
    image: u64,
    reserved: u64,
    regions: u64,
    count: u64,
) -> ! {
    crate::frames::init(tree, image, reserved, regions, count);
    // SAFETY: boot left a checked device tree there, outside everything that is taken or given away.
    let machine = unsafe { fdt::Fdt::from_ptr(tree as *const u8) };
    let arguments = machine
        .ok()
        .and_then(|tree| tree.chosen().bootargs())
        .unwrap_or("");
    let arguments = arguments.trim();
    match arguments.strip_prefix("churn=").map(str::parse) {
        Some(Ok(rounds)) => crate::churn::run(rounds),
        Some(Err(_)) => panic!("churn= wants a number"),
        None => crate::suite::run(arguments.strip_prefix("attack=").unwrap_or("all")),
    }
}

pub(crate) extern "C" fn other(index: u64) -> ! {
    crate::smp::serve(index as usize)
}
