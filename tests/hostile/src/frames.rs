//! RAM: what is the core's by its own account, and what this program may take.

use crate::{access, board, call};
use abi::PAGE_SIZE;
use abi::hypercall::CoreInfo;
use core::sync::atomic::{AtomicU64, Ordering};

const MOST: usize = 16;
const BLOCK: u64 = 2 << 20;

static WITHHELD: [AtomicU64; 2 * MOST] = [const { AtomicU64::new(0) }; 2 * MOST];
static POOL_START: AtomicU64 = AtomicU64::new(0);
static POOL_END: AtomicU64 = AtomicU64::new(0);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// First byte behind RAM.
pub(crate) fn ram_end() -> u64 {
    board::RAM + call::info(CoreInfo::RamFrames) * PAGE_SIZE
}

/// Takes down what boot left in x0–x4, and looks for the largest free range.
pub(crate) fn init(tree: u64, image: u64, reserved: u64, regions: u64, count: u64) {
    let words = 2 * (count as usize).min(MOST);
    for (word, n) in WITHHELD.iter().take(words).zip(0..) {
        word.store(access::word(regions + 8 * n), Ordering::Relaxed);
    }
    let own = [
        (image, reserved),
        (tree & !(BLOCK - 1), 2 * BLOCK),
        (board::RAM, BLOCK),
    ];
    let taken = || withheld().chain(own);
    let (mut best, mut at) = ((0, 0), board::RAM);
    while at < ram_end() {
        if let Some((base, size)) = taken().find(|&(base, size)| base <= at && at < base + size) {
            at = (base + size).next_multiple_of(BLOCK);
            continue;
        }
        let end = taken()
            .map(|(base, _)| base)
            .filter(|&base| base > at)
            .fold(ram_end(), u64::min);
        if end - at > best.1 - best.0 {
            best = (at, end);
        }
        at = end;
    }
    POOL_START.store(best.0, Ordering::Relaxed);
    POOL_END.store(best.1 & !(BLOCK - 1), Ordering::Relaxed);
    reset();
}

/// The ranges (base, bytes) that the core says are not the hostvisor's: its image comes first.
pub(crate) fn withheld() -> impl Iterator<Item = (u64, u64)> {
    WITHHELD
        .chunks(2)
        .map(|pair| {
            (
                pair[0].load(Ordering::Relaxed),
                pair[1].load(Ordering::Relaxed),
            )
        })
        .filter(|&(_, size)| size != 0)
}

/// The address of every page in them.
pub(crate) fn core_pages() -> impl Iterator<Item = u64> {
    withheld().flat_map(|(base, size)| (base..base + size).step_by(PAGE_SIZE as usize))
}

/// Everything taken is free again: an attack leaves nothing.
pub(crate) fn reset() {
    reset_to(POOL_START.load(Ordering::Relaxed));
}

/// Addresses of the pages taken so far.
pub(crate) fn taken() -> impl Iterator<Item = u64> {
    (POOL_START.load(Ordering::Relaxed)..mark()).step_by(PAGE_SIZE as usize)
}

/// How far the free pages are taken.
pub(crate) fn mark() -> u64 {
    NEXT.load(Ordering::SeqCst)
}

/// What was taken since `mark` is free again.
pub(crate) fn reset_to(mark: u64) {
    NEXT.store(mark, Ordering::SeqCst);
}

/// Address of `pages` zeroed free pages in a row.
pub(crate) fn take(pages: u64) -> u64 {
    let start = NEXT.fetch_add(pages * PAGE_SIZE, Ordering::SeqCst);
    assert!(
        start + pages * PAGE_SIZE <= POOL_END.load(Ordering::Relaxed),
        "out of RAM"
    );
    access::fill(start, pages * PAGE_SIZE, 0);
    start
}

/// The same, from a multiple of 2 MiB on, not zeroed.
pub(crate) fn take_blocks(blocks: u64) -> u64 {
    let start = NEXT.load(Ordering::SeqCst).next_multiple_of(BLOCK);
    NEXT.store(start + blocks * BLOCK, Ordering::SeqCst);
    assert!(
        start + blocks * BLOCK <= POOL_END.load(Ordering::Relaxed),
        "out of RAM"
    );
    start
}

/// Whole 2 MiB blocks that are still free.
pub(crate) fn blocks_left() -> u64 {
    let start = NEXT.load(Ordering::SeqCst).next_multiple_of(BLOCK);
    (POOL_END.load(Ordering::Relaxed) - start) / BLOCK
}

/// Touches everything that an attack took, so that the core maps it back in whole blocks.
pub(crate) fn settle() {
    for at in taken() {
        // What a living VM has faults.
        let _ = access::read(at);
    }
}
