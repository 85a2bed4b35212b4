//! Dividing up RAM: what the core keeps, and where the hostvisor goes. A pure function of sizes and
//! ranges.
//!
//! The core's tables go directly behind the payload image where there is room, so that both break
//! up the same large blocks of the hostvisor's memory; else to the top of RAM.

use crate::info::MAX_RAM;
use crate::layout::HOST_HEAP;
use crate::ranges::{List, Range, align_up};
use abi::PAGE_SIZE;

/// Bytes of a level 2 block: what the hostvisor's own memory is aligned to.
pub const BLOCK: u64 = 2 << 20;
/// Bytes of a frame table entry.
const ENTRY: u64 = 8;
/// EL2 stage-1 tables: five or so for each piece of RAM and each device, of 4 KiB.
const EL2_TABLES: u64 = 64 * PAGE_SIZE;
/// The page-table pool: thousandths of RAM, and at least this much.
const POOL_PER_MILLE: u64 = 3;
const POOL_MIN: u64 = 2 << 20;
/// Most ranges that are in use already.
pub const MAX_BUSY: usize = 8;
/// Free pieces: each busy range splits at most one in two.
const MAX_FREE: usize = MAX_RAM + 2 * MAX_BUSY + 2;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// RAM, sorted, whole pages, nothing twice.
    pub ram: &'a [Range],
    /// The payload image with bss and stacks: one of the ranges in use.
    pub image: Range,
    /// Other ranges in use: device tree, initrd.
    pub busy: &'a [Range],
    /// Bytes the hostvisor takes.
    pub host_total: u64,
    /// Bytes of the device tree that the hostvisor gets a copy of.
    pub tree_size: u64,
}

/// Who gets what. Whole pages, no two overlapping, all in RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// EL2 stage-1 tables.
    pub el2_tables: Range,
    /// The frame table, one entry for each frame of RAM.
    pub frame_table: Range,
    /// The page-table pool.
    pub pool: Range,
    /// The hostvisor's image and initial heap: whole 2 MiB blocks.
    pub host: Range,
    /// Directly behind it, whole 2 MiB blocks: its copy of the device tree, then the page of
    /// [`Plan::region_list`].
    pub host_data: Range,
}

impl Plan {
    /// All of the core's dynamic memory, which is contiguous.
    #[must_use]
    pub const fn core(&self) -> Range {
        Range {
            start: self.el2_tables.start,
            end: self.pool.end,
        }
    }

    /// Where the copy of a device tree of `tree_size` bytes ends and the list of the core's regions
    /// begins.
    #[must_use]
    pub const fn region_list(&self, tree_size: u64) -> u64 {
        self.host_data.start + align_up(tree_size, PAGE_SIZE)
    }
}

/// What there was no room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CarveError {
    /// The core's tables, of so many bytes.
    Core(u64),
    /// The hostvisor, of so many bytes.
    Host(u64),
    /// More ranges in use than the planner holds.
    TooManyRanges,
}

/// Divides up RAM.
///
/// # Errors
/// See [`CarveError`].
pub fn plan(request: &Request<'_>) -> Result<Plan, CarveError> {
    let mut free = List::<Range, MAX_FREE>::default();
    for &range in request.ram {
        free.push(range).map_err(|_| CarveError::TooManyRanges)?;
    }
    if request.busy.len() > MAX_BUSY {
        return Err(CarveError::TooManyRanges);
    }
    free.subtract(request.image.grown_to(PAGE_SIZE));
    for range in request.busy {
        free.subtract(range.grown_to(PAGE_SIZE));
    }
    free.sort_unstable_by_key(|range| range.start);

    let ram: u64 = request.ram.iter().map(|range| range.size()).sum();
    let table = align_up(ram / PAGE_SIZE * ENTRY, PAGE_SIZE);
    let pool = align_up(
        (ram / 1000).saturating_mul(POOL_PER_MILLE).max(POOL_MIN),
        PAGE_SIZE,
    );
    let core = table.saturating_add(pool).saturating_add(EL2_TABLES);
    let start = place_core(&free, align_up(request.image.end, PAGE_SIZE), core)
        .ok_or(CarveError::Core(core))?;
    free.subtract(Range::sized(start, core));

    let host = align_up(request.host_total.saturating_add(HOST_HEAP), BLOCK);
    let data = align_up(request.tree_size.saturating_add(2 * PAGE_SIZE), BLOCK);
    let total = host.saturating_add(data);
    let host_start = free
        .iter()
        .map(|range| range.shrunk_to(BLOCK))
        .filter(|range| range.size() >= total)
        .map(|range| range.start)
        .min()
        .ok_or(CarveError::Host(total))?;

    let el2_tables = Range::sized(start, EL2_TABLES);
    let frame_table = Range::sized(el2_tables.end, table);
    Ok(Plan {
        el2_tables,
        frame_table,
        pool: Range::sized(frame_table.end, pool),
        host: Range::sized(host_start, host),
        host_data: Range::sized(host_start + host, data),
    })
}

/// Where `size` bytes go: at `preferred` if they fit there, else at the highest place aligned to a
/// block, else at the highest place.
fn place_core(free: &[Range], preferred: u64, size: u64) -> Option<u64> {
    let wanted = Range::sized(preferred, size);
    if wanted.size() == size && free.iter().any(|range| range.contains(wanted)) {
        return Some(preferred);
    }
    let top = |align: u64| {
        free.iter()
            .filter(|range| range.size() >= size)
            .map(|range| (range.start, (range.end - size) & !(align - 1)))
            .filter(|&(start, place)| place >= start)
            .map(|(_, place)| place)
            .max()
    };
    top(BLOCK).or_else(|| top(PAGE_SIZE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn parts(plan: &Plan) -> [Range; 5] {
        [
            plan.el2_tables,
            plan.frame_table,
            plan.pool,
            plan.host,
            plan.host_data,
        ]
    }

    fn check(request: &Request<'_>, plan: &Plan) {
        let mut all: Vec<Range> = request.busy.iter().map(|r| r.grown_to(PAGE_SIZE)).collect();
        all.push(request.image.grown_to(PAGE_SIZE));
        all.retain(|range| !range.is_empty());
        for part in parts(plan) {
            assert_eq!(part, part.grown_to(PAGE_SIZE), "whole pages");
            assert!(
                request.ram.iter().any(|r| r.contains(part)),
                "{part:x?} in RAM"
            );
            for other in &all {
                assert!(!part.overlaps(*other), "{part:x?} and {other:x?}");
            }
            all.push(part);
        }
        let frames: u64 = request.ram.iter().map(|r| r.size() / PAGE_SIZE).sum();
        assert!(plan.frame_table.size() >= frames * ENTRY);
        assert!(plan.pool.size() >= POOL_MIN);
        assert!(plan.host.size() >= request.host_total + HOST_HEAP);
        assert_eq!(plan.host.start % BLOCK, 0);
        assert_eq!(plan.host.size() % BLOCK, 0);
        assert_eq!(plan.host.end, plan.host_data.start);
        let list = plan.region_list(request.tree_size);
        assert!(list + PAGE_SIZE <= plan.host_data.end);
        assert!(list >= plan.host_data.start + request.tree_size);
    }

    /// QEMU virt: image 2 MiB into RAM, initrd and tree at 128 MiB or half of a small RAM.
    fn qemu(ram: u64) -> (Request<'static>, Plan) {
        let base = GIB;
        let middle = base + (ram / 2).min(128 * MIB);
        let request = Request {
            ram: Vec::leak(vec![Range::sized(base, ram)]),
            image: Range::sized(base + 2 * MIB, MIB + MIB / 4),
            busy: Vec::leak(vec![
                Range::sized(middle, 12_345_678),
                Range::sized(align_up(middle + 12_345_678, BLOCK), MIB),
            ]),
            host_total: MIB,
            tree_size: MIB,
        };
        let plan = plan(&request).unwrap();
        check(&request, &plan);
        (request, plan)
    }

    #[test]
    fn the_core_takes_less_than_one_percent() {
        for ram in [
            512 * MIB,
            GIB,
            2 * GIB,
            4 * GIB,
            16 * GIB,
            64 * GIB,
            319 * GIB,
        ] {
            let (request, plan) = qemu(ram);
            let core = plan.core().size() + request.image.size();
            assert!(core * 100 < ram, "{core:#x} of {ram:#x}");
        }
    }

    #[test]
    fn small_machines_keep_the_core_in_one_piece() {
        let (request, plan) = qemu(2 * GIB);
        assert_eq!(plan.core().start, request.image.end);
    }

    #[test]
    fn large_tables_go_to_the_top() {
        let (request, plan) = qemu(64 * GIB);
        assert_eq!(plan.core().start % BLOCK, 0);
        assert!(request.ram[0].end - plan.core().end < BLOCK);
    }

    #[test]
    fn lack_of_room_is_an_error() {
        let ram = [Range::sized(GIB, 4 * MIB)];
        let image = Range::sized(GIB + 2 * MIB, MIB);
        let mut request = Request {
            ram: &ram,
            image,
            busy: &[],
            host_total: MIB,
            tree_size: 4096,
        };
        assert!(matches!(plan(&request), Err(CarveError::Core(_))));
        let ram = [Range::sized(GIB, 16 * MIB)];
        request.ram = &ram;
        request.host_total = 15 * MIB;
        assert!(matches!(plan(&request), Err(CarveError::Host(_))));
        request.host_total = u64::MAX;
        assert!(matches!(plan(&request), Err(CarveError::Host(_))));
    }

    proptest! {
        #[test]
        fn nothing_overlaps_and_all_is_ram(
            sizes in prop::collection::vec((1u64..4096, 0u64..2048), 1..=MAX_RAM),
            image_at in 0u64..0x10_0000, image_pages in 1u64..2048,
            busy in prop::collection::vec((0u64..8 * GIB, 0u64..64 * MIB), 0..=MAX_BUSY),
            host_total in 0u64..8 * MIB, tree_size in 40u64..4 * MIB,
        ) {
            let mut at = GIB;
            let mut ram = Vec::new();
            for (megabytes, gap) in sizes {
                ram.push(Range::sized(at, megabytes * MIB));
                at += megabytes * MIB + (gap + 1) * PAGE_SIZE;
            }
            let busy: Vec<_> = busy.iter().map(|&(at, size)| Range::sized(GIB + at, size)).collect();
            let image = Range::sized(GIB + image_at * PAGE_SIZE, image_pages * PAGE_SIZE);
            let request = Request { ram: &ram, image, busy: &busy, host_total, tree_size };
            if let Ok(plan) = plan(&request) {
                check(&request, &plan);
            }
        }

        #[test]
        fn subtracting_leaves_exactly_the_other_bytes(
            keep in prop::collection::vec((0u64..200, 1u64..40), 1..6),
            hole in (0u64..200, 0u64..80),
        ) {
            let mut list = List::<Range, 16>::default();
            for (start, size) in keep {
                prop_assert!(list.push(Range::sized(start, size)).is_ok());
            }
            list.normalise();
            let before = list;
            let hole = Range::sized(hole.0, hole.1);
            prop_assert_eq!(list.subtract(hole), 0);
            for byte in 0..300 {
                let holds = |l: &[Range]| l.iter().any(|r| (r.start..r.end).contains(&byte));
                let in_hole = (hole.start..hole.end).contains(&byte);
                prop_assert_eq!(holds(&list), holds(&before) && !in_hole);
            }
        }
    }
}
