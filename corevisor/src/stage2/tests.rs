//! The table against a flat model, under the simulated machine's eyes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test code"
)]

use super::*;
use crate::frame_table::RamRegion;
use crate::sim::Machine;
use core::sync::atomic::Ordering;
use proptest::prelude::*;

const POOL: Pfn = Pfn(0x4_0000);
const FRAMES: u64 = 64;

fn machine() -> Machine {
    Machine::new(&[RamRegion {
        base: POOL,
        frames: FRAMES,
    }])
}

/// A mapped range of pages: first IPA page, pages, first frame, attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    page: u64,
    pages: u64,
    frame: u64,
    attributes: Attributes,
}

/// What should be mapped: disjoint ranges.
#[derive(Default)]
struct Flat(Vec<Range>);

impl Flat {
    fn overlap(&self, page: u64, pages: u64) -> Option<Range> {
        let hit = |r: &&Range| r.page < page + pages && page < r.page + r.pages;
        self.0.iter().filter(hit).min_by_key(|r| r.page).copied()
    }

    fn remove(&mut self, page: u64, pages: u64) {
        let end = page + pages;
        self.0 = core::mem::take(&mut self.0)
            .into_iter()
            .flat_map(|r| {
                let left = Range {
                    pages: page.saturating_sub(r.page).min(r.pages),
                    ..r
                };
                let skip = end.saturating_sub(r.page).min(r.pages);
                let right = Range {
                    page: r.page + skip,
                    pages: r.pages - skip,
                    frame: r.frame + skip,
                    ..r
                };
                if r.page < end && page < r.page + r.pages {
                    vec![left, right]
                } else {
                    vec![r]
                }
            })
            .filter(|r| r.pages > 0)
            .collect();
    }

    fn normal(mut self) -> Vec<Range> {
        self.0.sort_by_key(|r| r.page);
        let mut out: Vec<Range> = Vec::new();
        for r in self.0 {
            match out.last_mut() {
                Some(l)
                    if l.page + l.pages == r.page
                        && l.frame + l.pages == r.frame
                        && l.attributes == r.attributes =>
                {
                    l.pages += r.pages;
                }
                _ => out.push(r),
            }
        }
        out
    }
}

/// What the simulated machine's walkers and TLBs see.
fn seen(machine: &Machine, regs: Stage2Regs) -> Flat {
    let range = |leaf: crate::sim::Leaf| Range {
        page: leaf.ipa >> 12,
        pages: leaf.size >> 12,
        frame: leaf.pa >> 12,
        attributes: Attributes {
            memory: if leaf.normal() {
                arch::descriptor::MemoryType::Normal
            } else {
                arch::descriptor::MemoryType::Device
            },
            access: if leaf.writable() {
                arch::descriptor::Access::ReadWrite
            } else {
                arch::descriptor::Access::ReadOnly
            },
            execute: leaf.executable(),
        },
    };
    Flat(machine.leaves(regs).into_iter().map(range).collect())
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Map(u64, u64, u64, Attributes),
    Unmap(u64, u64),
    Merge(u64),
}

/// Page numbers near block borders, in few blocks, so that operations meet.
fn page() -> impl Strategy<Value = u64> {
    let block = prop_oneof![0_u64..3, 510_u64..514, Just(0x1_FE00), Just(0x1_FFFF)];
    let offset = prop_oneof![Just(0), Just(0), 0_u64..4, 508_u64..512];
    (block, offset).prop_map(|(block, offset)| block * 512 + offset)
}

fn op() -> impl Strategy<Value = Op> {
    let pages = prop_oneof![
        Just(1),
        1_u64..512,
        Just(PAGES_2M),
        Just(PAGES_2M),
        Just(PAGES_1G)
    ];
    let attributes = prop_oneof![
        4 => Just(Attributes::RAM), 1 => Just(Attributes::DEVICE), 1 => Just(Attributes::DEVICE_READ_ONLY)
    ];
    // Frames mostly at one offset from the pages, so that merges happen.
    let skew = prop_oneof![4 => Just(0x40_0000_u64), 1 => Just(0x40_0001), 1 => Just(0x40_0200)];
    prop_oneof![
        5 => (page(), pages.clone(), skew, attributes).prop_map(|(p, n, s, a)| {
            let (p, n) = fit(p, n);
            let s = if n >= PAGES_2M { s & !(n - 1) } else { s };
            Op::Map(p, n, p + s, a)
        }),
        4 => (page(), pages).prop_map(|(p, n)| {
            let (p, n) = fit(p, n.min(PAGES_2M));
            Op::Unmap(p, n)
        }),
        2 => page().prop_map(Op::Merge),
    ]
}

/// Blocks get aligned, runs of pages end with their 2 MiB.
fn fit(page: u64, pages: u64) -> (u64, u64) {
    match pages {
        PAGES_2M | PAGES_1G => (page & !(pages - 1), pages),
        _ => (page, pages.min(PAGES_2M - page % PAGES_2M)),
    }
}

fn ipa(page: u64) -> Ipa {
    Ipa(page << 12)
}

fn run(
    op: Op,
    table: &mut Stage2,
    pool: &Pool<'_, Machine>,
    flat: &mut Flat,
) -> Result<(), TestCaseError> {
    match op {
        Op::Map(page, pages, frame, attributes) => {
            let mut pages = pages;
            let overlap = flat.overlap(page, pages);
            if pages == PAGES_1G {
                let free = table.tables_to_map(pool, ipa(page), pages).is_ok();
                prop_assert_eq!(free, overlap.is_none());
                if !free {
                    return Ok(());
                }
            } else {
                let vacant = overlap.map_or(pages, |r| r.page.saturating_sub(page));
                prop_assert_eq!(table.vacant(pool, ipa(page), pages).unwrap_or(0), vacant);
                if vacant == 0 {
                    return Ok(());
                }
                pages = vacant;
            }
            let count = table.tables_to_map(pool, ipa(page), pages);
            let Ok(mut reserve) = pool.reserve(count.unwrap()) else {
                return Ok(());
            };
            let pa = Pfn(frame).base();
            table.map(pool, &mut reserve, ipa(page), pa, pages, attributes);
            flat.0.push(Range {
                page,
                pages,
                frame,
                attributes,
            });
        }
        Op::Unmap(page, pages) => {
            let count = table.tables_to_unmap(pool, ipa(page), pages);
            let Ok(mut reserve) = pool.reserve(count) else {
                return Ok(());
            };
            let _ = table.unmap(pool, &mut reserve, ipa(page), pages);
            flat.remove(page, pages);
        }
        Op::Merge(page) => {
            let slot = table.find(pool.platform(), ipa(page), PAGE_LEVEL);
            table.merge(pool, ipa(page), slot.level.max(BLOCK_2M_LEVEL));
        }
    }
    Ok(())
}

fn check_walk(table: &Stage2, pool: &Pool<'_, Machine>, flat: &Flat, page: u64) {
    let expected = flat
        .overlap(page, 1)
        .map(|r| (Pfn(r.frame + page - r.page).base(), r.attributes));
    let got = table.walk(pool, ipa(page)).map(|m| (m.pa, m.attributes));
    assert_eq!(got, expected);
    if let Some((pa, _)) = got {
        let (pfn, run) = table
            .mapped_run(pool, ipa(page), PAGES_2M - page % PAGES_2M)
            .unwrap();
        assert_eq!(pfn.base(), pa);
        assert!(run > 0);
        for n in [0, run / 2, run - 1] {
            let at = table.walk(pool, ipa(page + n)).map(|m| m.pa);
            assert_eq!(at, Some(Pfn(pfn.0 + n).base()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever is mapped, unmapped and merged in whatever order, the walkers see exactly the flat
    /// model, no break-before-make is missing, no table leaks, and teardown returns every frame.
    #[test]
    fn follows_the_flat_model(
        geometry in prop_oneof![Just(Geometry::vm(4)), Just(Geometry::host(4)), Just(Geometry::host(3))],
        ops in prop::collection::vec(op(), 1..40),
        probes in prop::collection::vec(page(), 8),
        budgets in prop::collection::vec(1_u64..5, 1..4),
        scarce in 3_u64..FRAMES,
    ) {
        let machine = machine();
        let count = if geometry.root_frames > 1 { FRAMES } else { scarce };
        let pool = Pool::new(&machine, POOL, count);
        let mut table = Stage2::new(&pool, geometry, 9).unwrap();
        let regs = table.regs();
        machine.watch(regs);
        let mut flat = Flat::default();
        for op in ops {
            run(op, &mut table, &pool, &mut flat)?;
            prop_assert_eq!(machine.complaints(), Vec::<String>::new());
            prop_assert_eq!(machine.tables(regs) + pool.free_count(), count);
            let expected = Flat(flat.0.clone()).normal();
            prop_assert_eq!(seen(&machine, regs).normal(), expected);
            for page in &probes {
                check_walk(&table, &pool, &flat, *page);
            }
        }
        if geometry == Geometry::vm(4) {
            let mut budgets = budgets.into_iter().cycle();
            let mut again = 0;
            while let Err(error) = table.teardown(&pool, budgets.next().unwrap()) {
                prop_assert_eq!(error, Error::Again);
                prop_assert!(machine.leaves(regs).is_empty());
                prop_assert_eq!(table.walk(&pool, Ipa(0)), None);
                prop_assert_eq!(table.vacant(&pool, Ipa(0), 1), Err(Error::BadState));
                again += 1;
                prop_assert!(again < FRAMES);
            }
            prop_assert_eq!(table.teardown(&pool, 1), Ok(()));
            prop_assert_eq!(pool.free_count(), count);
            prop_assert_eq!(machine.complaints(), Vec::<String>::new());
        }
    }
}

fn map(table: &mut Stage2, pool: &Pool<'_, Machine>, page: u64, pages: u64) {
    let count = table.tables_to_map(pool, ipa(page), pages).unwrap();
    let mut reserve = pool.reserve(count).unwrap();
    table.map(
        pool,
        &mut reserve,
        ipa(page),
        Pfn(page).base(),
        pages,
        Attributes::RAM,
    );
}

fn unmap(table: &mut Stage2, pool: &Pool<'_, Machine>, page: u64, pages: u64) {
    let mut reserve = pool
        .reserve(table.tables_to_unmap(pool, ipa(page), pages))
        .unwrap();
    let _ = table.unmap(pool, &mut reserve, ipa(page), pages);
}

fn leaf_at(table: &Stage2, pool: &Pool<'_, Machine>, page: u64) -> u64 {
    table.walk(pool, ipa(page)).unwrap().size
}

#[test]
fn a_hole_splits_and_filling_it_merges_up_to_the_largest_block() {
    let machine = machine();
    let pool = Pool::new(&machine, POOL, FRAMES);
    let mut table = Stage2::new(&pool, Geometry::vm(4), 1).unwrap();
    machine.watch(table.regs());
    map(&mut table, &pool, PAGES_1G, PAGES_1G);
    let free = pool.free_count();
    let hole = PAGES_1G + 5 * PAGES_2M + 7;
    unmap(&mut table, &pool, hole, 1);
    assert_eq!(free - pool.free_count(), 2);
    assert_eq!(leaf_at(&table, &pool, hole + 1), PAGE_SIZE);
    assert_eq!(leaf_at(&table, &pool, PAGES_1G), PAGES_2M * PAGE_SIZE);
    map(&mut table, &pool, hole, 1);
    table.merge(&pool, ipa(hole), PAGE_LEVEL);
    assert_eq!(leaf_at(&table, &pool, hole), PAGES_1G * PAGE_SIZE);
    assert_eq!((free, machine.complaints()), (pool.free_count(), vec![]));
}

#[test]
fn a_2m_block_costs_one_invalidation() {
    let machine = machine();
    let pool = Pool::new(&machine, POOL, FRAMES);
    let mut table = Stage2::new(&pool, Geometry::vm(4), 1).unwrap();
    machine.watch(table.regs());
    for pages in [1, 37, PAGES_2M] {
        map(&mut table, &pool, 0, pages);
        let before = machine.invalidations.load(Ordering::Relaxed);
        unmap(&mut table, &pool, 0, pages);
        assert_eq!(machine.invalidations.load(Ordering::Relaxed) - before, 1);
        assert_eq!(pool.free_count(), FRAMES - 1, "empty tables go back");
    }
    let before = machine.invalidations.load(Ordering::Relaxed);
    unmap(&mut table, &pool, 0, PAGES_2M);
    assert_eq!(
        machine.invalidations.load(Ordering::Relaxed),
        before,
        "nothing was mapped"
    );
}

#[test]
fn different_neighbours_do_not_merge() {
    let machine = machine();
    let pool = Pool::new(&machine, POOL, FRAMES);
    let mut table = Stage2::new(&pool, Geometry::vm(4), 1).unwrap();
    machine.watch(table.regs());
    map(&mut table, &pool, 0, PAGES_2M - 1);
    let last = PAGES_2M - 1;
    for (frame, attributes) in [
        (last + 1, Attributes::RAM),
        (last, Attributes::DEVICE),
        (last, Attributes::RAM),
    ] {
        let mut reserve = pool.reserve(0).unwrap();
        table.map(
            &pool,
            &mut reserve,
            ipa(last),
            Pfn(frame).base(),
            1,
            attributes,
        );
        table.merge(&pool, Ipa(0), PAGE_LEVEL);
        let alike = (frame, attributes) == (last, Attributes::RAM);
        assert_eq!(leaf_at(&table, &pool, 0) > PAGE_SIZE, alike);
        if !alike {
            unmap(&mut table, &pool, last, 1);
        }
    }
    // 512 pages in a row, but not at a frame that a block can start at.
    let mut table = Stage2::new(&pool, Geometry::vm(4), 2).unwrap();
    machine.watch(table.regs());
    for part in [0..300, 300..PAGES_2M] {
        let mut reserve = pool.reserve(2).unwrap();
        let (at, pages) = (part.start, part.end - part.start);
        table.map(
            &pool,
            &mut reserve,
            ipa(at),
            Pfn(at + 1).base(),
            pages,
            Attributes::RAM,
        );
    }
    table.merge(&pool, Ipa(0), PAGE_LEVEL);
    assert_eq!(leaf_at(&table, &pool, 0), PAGE_SIZE);
    assert_eq!(machine.complaints(), Vec::<String>::new());
}

/// Found by `follows_the_flat_model`: the one page of the range that was mapped is not the first.
#[test]
fn a_lone_page_inside_an_unmapped_range_is_invalidated() {
    let machine = machine();
    let pool = Pool::new(&machine, POOL, FRAMES);
    let mut table = Stage2::new(&pool, Geometry::vm(4), 1).unwrap();
    machine.watch(table.regs());
    map(&mut table, &pool, 1, 1);
    unmap(&mut table, &pool, 0, 2);
    assert_eq!(machine.complaints(), Vec::<String>::new());
}
