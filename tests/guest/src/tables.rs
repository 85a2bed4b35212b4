//! The stage-1 table that `asm/entry.s` fills in, and the one entry of it that tests change.

use core::arch::asm;
use core::cell::UnsafeCell;

use crate::cpu;

/// Level 1, 39-bit addresses: one entry for each GiB.
#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);
// SAFETY: written by the boot CPU before any other runs; afterwards only in `with_next_level`'s entry.
unsafe impl Sync for Table {}
#[unsafe(no_mangle)]
static TABLE: Table = Table(UnsafeCell::new([0; 512]));

/// The first GiB of which `asm/entry.s` maps nothing.
const FREE: usize = 65;
/// Table descriptor (Arm ARM D8.3.1).
const TABLE_DESCRIPTOR: u64 = 0b11;

/// Runs `action` with an address whose translation reads a level 2 table at physical address `table`,
/// wherever that is.
pub(crate) fn with_next_level<R>(table: u64, action: impl FnOnce(u64) -> R) -> R {
    set_free_entry(table | TABLE_DESCRIPTOR);
    let result = action((FREE as u64) << 30);
    set_free_entry(0);
    result
}

fn set_free_entry(descriptor: u64) {
    // SAFETY: nothing that the compiler knows of is mapped by this entry.
    unsafe {
        TABLE
            .0
            .get()
            .cast::<u64>()
            .add(FREE)
            .write_volatile(descriptor);
        asm!("dsb ishst", "tlbi vmalle1is", "dsb ish");
    }
    cpu::barrier();
}
