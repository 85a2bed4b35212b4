//! Tables as words: indexing, loads and stores, and building tables nobody sees yet.

use super::{PAGES_1G, PAGES_2M};
use crate::invariant::broken;
use crate::pool::{Platform, Reserve};
use abi::{Ipa, Pfn};
use arch::descriptor::{
    BLOCK_1G_LEVEL, BLOCK_2M_LEVEL, Descriptor, ENTRIES, PAGE_LEVEL, leaf_shift,
};
use core::sync::atomic::{AtomicU64, Ordering};

/// Builds the tables of levels `above.start + 1 ..= above.end` on the walk of `ipa`, and answers the
/// descriptor of the uppermost. `content` says what stands in entry `i` of the table of a level where
/// it does not lead on to the next.
pub(super) fn build<P: Platform>(
    platform: &P,
    reserve: &mut Reserve<'_, '_, P>,
    ipa: Ipa,
    above: core::ops::Range<u32>,
    content: impl Fn(u32, u64) -> Descriptor,
) -> Descriptor {
    let mut lower: Option<Descriptor> = None;
    for level in (above.start + 1..=above.end).rev() {
        let table = reserve.take();
        let on_walk = index(ipa, level);
        for (cell, i) in cells(platform, table.pfn(), 0, ENTRIES).zip(0..) {
            store(
                cell,
                match lower {
                    Some(lower) if i == on_walk => lower,
                    _ => content(level, i),
                },
            );
        }
        lower = Some(table.link());
    }
    match lower {
        Some(table) => table,
        None => broken("no table to build"),
    }
}

/// Index of the descriptor for `ipa` in a table of `level`.
pub(super) const fn index(ipa: Ipa, level: u32) -> u64 {
    ipa.0 >> leaf_shift(level) & (ENTRIES - 1)
}

/// The level whose leaf has `pages` pages; 3 for anything that is not a whole block.
pub(super) const fn level_of(pages: u64) -> u32 {
    match pages {
        PAGES_1G => BLOCK_1G_LEVEL,
        PAGES_2M => BLOCK_2M_LEVEL,
        _ => PAGE_LEVEL,
    }
}

pub(super) fn cell<P: Platform>(platform: &P, table: Pfn, index: u64) -> &AtomicU64 {
    match platform.words(table).get(index as usize) {
        Some(cell) => cell,
        None => broken("table index beyond the table"),
    }
}

/// `count` descriptors of `table` from `first` on; fewer where the table ends.
pub(super) fn cells<P: Platform>(
    platform: &P,
    table: Pfn,
    first: u64,
    count: u64,
) -> core::slice::Iter<'_, AtomicU64> {
    let rest = platform
        .words(table)
        .get(first as usize..)
        .unwrap_or_default();
    rest.get(..count as usize).unwrap_or(rest).iter()
}

// Relaxed: the table's lock orders the cores' own accesses, `publish` orders them for table walkers.
pub(super) fn load(cell: &AtomicU64) -> Descriptor {
    Descriptor(cell.load(Ordering::Relaxed))
}

pub(super) fn store(cell: &AtomicU64, descriptor: Descriptor) {
    cell.store(descriptor.0, Ordering::Relaxed);
}
