//! The embedded hostvisor: into memory of its own, with what it needs to know.

use crate::panic::refuse;
use arch::el2::cache;
use boot::carve::Plan;
use boot::layout::host_total_size;
use boot::ranges::Range;
use core::slice;

/// The flat image, embedded when the payload is built.
static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hostvisor.bin"));

/// What the hostvisor is entered with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostEntry {
    /// Where it starts; also x1.
    pub(crate) entry: u64,
    /// x0–x4: its device tree, its image, the image's reserved size, the list of (base, size) of RAM
    /// that is not the hostvisor's, and the number of pairs in it.
    pub(crate) x: [u64; 5],
}

/// Bytes the hostvisor takes in memory.
pub(crate) fn total_size() -> u64 {
    match host_total_size(IMAGE) {
        Ok(size) => size,
        Err(error) => refuse(format_args!(
            "the embedded hostvisor image of {} bytes is unusable: {error:?}",
            IMAGE.len()
        )),
    }
}

/// Copies image and device tree to where `plan` says, and writes the list of `withheld` ranges behind
/// them. Everything is in memory afterwards: the hostvisor starts with caches off.
pub(crate) fn install(plan: &Plan, tree: &[u8], withheld: &[Range]) -> HostEntry {
    let list = plan.region_list(tree.len() as u64);
    // SAFETY: the planner made these two ranges of whole pages of mapped RAM for this purpose; they
    // overlap nothing in use, and no reference to them exists.
    let (image, data) = unsafe {
        (
            slice::from_raw_parts_mut(plan.host.start as *mut u8, plan.host.size() as usize),
            slice::from_raw_parts_mut(
                plan.host_data.start as *mut u8,
                plan.host_data.size() as usize,
            ),
        )
    };
    let (file, rest) = image.split_at_mut(IMAGE.len());
    file.copy_from_slice(IMAGE);
    rest.fill(0);
    let (copy, rest) = data.split_at_mut(tree.len());
    copy.copy_from_slice(tree);
    rest.fill(0);
    let slot = (list - plan.host_data.start) as usize;
    let pairs = withheld
        .iter()
        .flat_map(|range| [range.start, range.size()]);
    for (chunk, word) in data[slot..].chunks_exact_mut(8).zip(pairs) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    cache::clean_invalidate(plan.host.start, plan.host.size() + plan.host_data.size());
    HostEntry {
        entry: plan.host.start,
        x: [
            plan.host_data.start,
            plan.host.start,
            plan.host.size(),
            list,
            withheld.len() as u64,
        ],
    }
}
