//! Looks for a word in all RAM that the hostvisor can read: nothing of a protected VM may be there.
//!
//! For tests and operators who doubt. It reads what open VMs have, and holds its CPU up for seconds, so it has to be
//! allowed on the machine's command line (`debug`). What it looks for is told by its complement: the word itself
//! is in the hostvisor's memory only if it is there already.

use crate::hw;
use crate::machine::Region;
use abi::PAGE_SIZE;
use alloc::vec::Vec;
use spin::Once;

static RAM: Once<Vec<Region>> = Once::new();

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// Pages that could be read.
    pub read: u64,
    /// Pages that could not: the corevisor's, and protected VMs'.
    pub refused: u64,
    /// Words found, aligned ones.
    pub found: u64,
}

/// From now on [`run`] looks through `ram`.
pub fn allow(ram: Vec<Region>) {
    RAM.call_once(|| ram);
}

/// Looks for the 64-bit word whose complement is `complement`. `None` if that is not allowed.
#[must_use]
pub fn run(complement: u64) -> Option<Scan> {
    let pages = RAM.get()?.iter().flat_map(|region| {
        let start = region.base.next_multiple_of(PAGE_SIZE);
        (start..region.end()).step_by(PAGE_SIZE as usize)
    });
    let mut scan = Scan::default();
    for page in pages {
        match hw::count_complement(page, complement) {
            Ok(found) => {
                scan.read += 1;
                scan.found += found;
            }
            Err(hw::Unreachable) => scan.refused += 1,
        }
    }
    Some(scan)
}
