//! One stage-2 translation table: map, unmap with splits, merge, walk, teardown.
//!
//! Who may map what is not decided here. What this file guards is the architecture's side: a live
//! descriptor is only ever changed by break-before-make, new tables are complete and visible before
//! they are linked, and a table frame goes back to the pool when no TLB can know it any more. Each
//! change first counts the table frames it needs, so that with a [`Reserve`] of that size it cannot
//! fail (prepare, then commit).
//!
//! While a split or merge is between break and make, pages that stay mapped fault for a moment on
//! other CPUs. Whoever handles such a fault takes the table's lock, walks, and lets the access repeat
//! if the page is mapped.

use crate::invariant::broken;
use crate::pool::{Platform, Pool, Reserve, TableFrame};
use abi::{Error, Ipa, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr};
use arch::descriptor::{
    self, Attributes, BLOCK_2M_LEVEL, Decoded, Descriptor, ENTRIES, Geometry, PAGE_LEVEL,
    leaf_shift, leaf_size,
};
use arch::hal::Stage2Regs;
use core::sync::atomic::AtomicU64;
use words::{build, cell, cells, index, level_of, load, store};

mod words;

/// Pages of a 2 MiB block.
pub const PAGES_2M: u64 = 1 << 9;
/// Pages of a 1 GiB block.
pub const PAGES_1G: u64 = 1 << 18;

/// Proof that frames left a table and every TLB: [`Stage2::unmap`] alone makes it.
#[derive(Debug)]
#[must_use]
pub struct Unmapped(());

/// What [`Stage2::walk`] finds: the leaf an IPA lies in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Where the IPA leads; its offset in the leaf included.
    pub pa: PhysAddr,
    /// Size of the leaf in bytes: 4 KiB, 2 MiB or 1 GiB.
    pub size: u64,
    /// What the leaf allows.
    pub attributes: Attributes,
}

/// A stage-2 table. Whoever holds it mutably is the only one to change it.
#[derive(Debug)]
pub struct Stage2 {
    /// `None` once torn down. For the hostvisor the first of the concatenated root frames.
    root: Option<TableFrame>,
    geometry: Geometry,
    regs: Stage2Regs,
    /// Teardown has begun: nothing is reachable, and nothing enters any more.
    closed: bool,
}

/// The deepest descriptor a walk came to.
struct Slot<'p> {
    cell: &'p AtomicU64,
    table: Pfn,
    level: u32,
    decoded: Decoded,
}

impl Stage2 {
    /// An empty table for `vmid` (0: the hostvisor's).
    pub fn new<P: Platform>(
        pool: &Pool<'_, P>,
        geometry: Geometry,
        vmid: u8,
    ) -> Result<Self, Error> {
        let root = match geometry.root_frames {
            1 => pool.alloc()?,
            frames => pool.alloc_root(frames)?,
        };
        pool.platform().publish();
        let vttbr = descriptor::vttbr(root.pfn().base(), vmid);
        let regs = Stage2Regs {
            vttbr,
            vtcr: geometry.vtcr,
        };
        Ok(Self {
            root: Some(root),
            geometry,
            regs,
            closed: false,
        })
    }

    /// What selects this table. Not to be loaded once [`Self::teardown`] was called.
    #[must_use]
    pub const fn regs(&self) -> Stage2Regs {
        self.regs
    }

    /// Root frame (0 if torn down), VTTBR and whether it is closed: for the simulation.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn words(&self) -> [u64; 3] {
        let root = self.root.as_ref().map_or(0, |root| root.pfn().0);
        [root, self.regs.vttbr, u64::from(self.closed)]
    }

    /// The table that [`Self::words`] describes.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn of_words(geometry: Geometry, [root, vttbr, closed]: [u64; 3]) -> Self {
        Self {
            root: (root != 0).then(|| TableFrame::unlinked(Pfn(root).base())),
            geometry,
            regs: Stage2Regs {
                vttbr,
                vtcr: geometry.vtcr,
            },
            closed: closed != 0,
        }
    }

    /// First IPA beyond what the table can map.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        1 << self.geometry.ipa_bits
    }

    /// The leaf that maps `ipa`, if any.
    pub fn walk<P: Platform>(&self, pool: &Pool<'_, P>, ipa: Ipa) -> Option<Mapping> {
        if ipa.0 >= self.limit() || self.closed {
            return None;
        }
        let slot = self.find(pool.platform(), ipa, PAGE_LEVEL);
        match slot.decoded {
            Decoded::Leaf(base, attributes) => {
                let size = leaf_size(slot.level);
                Some(Mapping {
                    pa: PhysAddr(base.0 | ipa.0 & (size - 1)),
                    size,
                    attributes,
                })
            }
            _ => None,
        }
    }

    /// How many of `pages` pages from `ipa` on map nothing, up to the first that does. The pages lie
    /// in one aligned 2 MiB; all of that only where a block can be mapped, so one less in a table that holds
    /// nothing but marks. [`Error::Exists`] if none, [`Error::BadState`] after teardown has begun.
    pub fn vacant<P: Platform>(
        &self,
        pool: &Pool<'_, P>,
        ipa: Ipa,
        pages: u64,
    ) -> Result<u64, Error> {
        if self.closed {
            return Err(Error::BadState);
        }
        let platform = pool.platform();
        let slot = self.find(platform, ipa, PAGE_LEVEL);
        let vacant = match slot.decoded {
            Decoded::Invalid if slot.level == PAGE_LEVEL => {
                let pages = pages.min(PAGES_2M - 1);
                cells(platform, slot.table, index(ipa, PAGE_LEVEL), pages)
                    .take_while(|cell| !load(cell).is_valid())
                    .count() as u64
            }
            Decoded::Invalid => pages,
            _ => 0,
        };
        if vacant == 0 {
            Err(Error::Exists)
        } else {
            Ok(vacant)
        }
    }

    /// How many of `pages` pages from `ipa` on are mapped to frames in a row, and the first frame.
    /// The pages lie in one aligned 2 MiB.
    pub fn mapped_run<P: Platform>(
        &self,
        pool: &Pool<'_, P>,
        ipa: Ipa,
        pages: u64,
    ) -> Option<(Pfn, u64)> {
        let mapping = self.walk(pool, ipa)?;
        if mapping.size > PAGE_SIZE {
            return Some((Pfn::of(mapping.pa), pages));
        }
        let platform = pool.platform();
        let slot = self.find(platform, ipa, PAGE_LEVEL);
        let run = cells(platform, slot.table, index(ipa, PAGE_LEVEL), pages)
            .zip((mapping.pa.0..).step_by(PAGE_SIZE as usize))
            .take_while(|(cell, pa)| {
                matches!(load(cell).decode(PAGE_LEVEL), Decoded::Leaf(at, _) if at.0 == *pa)
            })
            .count();
        Some((Pfn::of(mapping.pa), run as u64))
    }

    /// Table frames that [`Self::map`] of the same range takes. [`Error::Exists`] if a table or leaf is
    /// where a leaf of that size would go.
    pub fn tables_to_map<P: Platform>(
        &self,
        pool: &Pool<'_, P>,
        ipa: Ipa,
        pages: u64,
    ) -> Result<usize, Error> {
        let target = level_of(pages);
        let slot = self.find(pool.platform(), ipa, target);
        match slot.decoded {
            Decoded::Invalid => Ok((target - slot.level) as usize),
            _ => Err(Error::Exists),
        }
    }

    /// Table frames that [`Self::unmap`] of the same range takes: those of a split.
    pub fn tables_to_unmap<P: Platform>(&self, pool: &Pool<'_, P>, ipa: Ipa, pages: u64) -> usize {
        let target = level_of(pages);
        let slot = self.find(pool.platform(), ipa, target);
        match slot.decoded {
            Decoded::Leaf(..) => (target - slot.level) as usize,
            _ => 0,
        }
    }

    /// Maps `pages` pages from `ipa` on to frames from `pa` on: a 1 GiB or 2 MiB block if `pages` is
    /// exactly that many, else 4 KiB pages within one aligned 2 MiB. All of it maps nothing before.
    pub fn map<P: Platform>(
        &mut self,
        pool: &Pool<'_, P>,
        reserve: &mut Reserve<'_, '_, P>,
        ipa: Ipa,
        pa: PhysAddr,
        pages: u64,
        attributes: Attributes,
    ) {
        let platform = pool.platform();
        let target = level_of(pages);
        let slot = self.find(platform, ipa, target);
        if slot.decoded != Decoded::Invalid {
            broken("mapping over a live descriptor");
        }
        let first = index(ipa, target);
        let count = if target == PAGE_LEVEL { pages } else { 1 };
        let leaf = |i: u64| {
            let offset = (i - first) << leaf_shift(target);
            Descriptor::leaf(target, PhysAddr(pa.0 + offset), attributes)
        };
        if slot.level == target {
            for (cell, i) in cells(platform, slot.table, first, count).zip(first..) {
                if load(cell).is_valid() {
                    broken("mapping over a live descriptor");
                }
                store(cell, leaf(i));
            }
        } else {
            let subtree = build(platform, reserve, ipa, slot.level..target, |level, i| {
                let inside = level == target && i.wrapping_sub(first) < count;
                if inside { leaf(i) } else { Descriptor::INVALID }
            });
            platform.publish();
            store(slot.cell, subtree);
        }
        platform.publish();
    }

    /// Marks the unmapped page at `ipa` as a device's. [`Error::Exists`] if something is mapped there,
    /// [`Error::BadState`] after teardown has begun.
    pub fn mark_mmio<P: Platform>(&mut self, pool: &Pool<'_, P>, ipa: Ipa) -> Result<(), Error> {
        if self.closed {
            return Err(Error::BadState);
        }
        let platform = pool.platform();
        let slot = self.find(platform, ipa, PAGE_LEVEL);
        if slot.decoded != Decoded::Invalid {
            return Err(Error::Exists);
        }
        if slot.level == PAGE_LEVEL {
            store(slot.cell, Descriptor::MMIO);
            return Ok(());
        }
        let mut reserve = pool.reserve((PAGE_LEVEL - slot.level) as usize)?;
        let marked = index(ipa, PAGE_LEVEL);
        let table = build(
            platform,
            &mut reserve,
            ipa,
            slot.level..PAGE_LEVEL,
            |level, i| {
                let here = level == PAGE_LEVEL && i == marked;
                if here {
                    Descriptor::MMIO
                } else {
                    Descriptor::INVALID
                }
            },
        );
        platform.publish();
        store(slot.cell, table);
        platform.publish();
        Ok(())
    }

    /// True if [`Self::mark_mmio`] marked the page at `ipa`, and nothing has been mapped there since.
    pub fn is_mmio<P: Platform>(&self, pool: &Pool<'_, P>, ipa: Ipa) -> bool {
        if ipa.0 >= self.limit() || self.closed {
            return false;
        }
        let slot = self.find(pool.platform(), ipa, PAGE_LEVEL);
        slot.level == PAGE_LEVEL && load(slot.cell) == Descriptor::MMIO
    }

    /// Unmaps `pages` pages from `ipa` on: all of an aligned 2 MiB or a part of one. Pages that map
    /// nothing are passed over; a larger block is split around the hole; tables left empty go back to
    /// the pool. When this returns, no CPU reaches the pages through this table.
    pub fn unmap<P: Platform>(
        &mut self,
        pool: &Pool<'_, P>,
        reserve: &mut Reserve<'_, '_, P>,
        ipa: Ipa,
        pages: u64,
    ) -> Unmapped {
        let platform = pool.platform();
        let target = level_of(pages);
        let slot = self.find(platform, ipa, target);
        let first = index(ipa, target);
        let count = if target == PAGE_LEVEL { pages } else { 1 };
        match slot.decoded {
            Decoded::Leaf(block, attributes) if slot.level < target => {
                let start = ipa.0 & !(leaf_size(slot.level) - 1);
                let subtree = build(platform, reserve, ipa, slot.level..target, |level, i| {
                    if level == target && i.wrapping_sub(first) < count {
                        return Descriptor::INVALID;
                    }
                    // IPA of entry `i` in the table of `level` that `ipa` lies in.
                    let table = ipa.0 & !(leaf_size(level - 1) - 1);
                    let offset = table - start + (i << leaf_shift(level));
                    Descriptor::leaf(level, PhysAddr(block.0 + offset), attributes)
                });
                self.break_before_make(pool, ipa, slot.cell, false, subtree);
            }
            Decoded::Invalid if slot.level < target => {}
            _ => {
                let child = match slot.decoded {
                    Decoded::Table(child) => Some(TableFrame::unlinked(child)),
                    _ => None,
                };
                // One leaf is invalidated by its IPA, a range that may hold several by the VMID.
                let several = count > 1 || child.is_some();
                let mut changed = false;
                for cell in cells(platform, slot.table, first, count) {
                    if load(cell).is_valid() {
                        store(cell, Descriptor::INVALID);
                        changed = true;
                    }
                }
                if changed {
                    self.finish_unmap(pool, ipa, &slot, child, several);
                }
            }
        }
        Unmapped(())
    }

    /// Takes emptied tables out above `slot`, invalidates, and gives the tables back.
    fn finish_unmap<P: Platform>(
        &mut self,
        pool: &Pool<'_, P>,
        ipa: Ipa,
        slot: &Slot<'_>,
        child: Option<TableFrame>,
        several_leaves: bool,
    ) {
        let platform = pool.platform();
        let mut freed = [child, None, None, None];
        let (mut table, mut level) = (slot.table, slot.level);
        for room in freed.iter_mut().skip(1) {
            let empty = || cells(platform, table, 0, ENTRIES).all(|cell| !load(cell).is_valid());
            if level == self.geometry.start_level || !empty() {
                break;
            }
            let parent = self.find(platform, ipa, level - 1);
            store(parent.cell, Descriptor::INVALID);
            *room = Some(TableFrame::unlinked(table.base()));
            (table, level) = (parent.table, parent.level);
        }
        self.invalidate(pool, ipa, several_leaves);
        for frame in freed.into_iter().flatten() {
            pool.free(frame);
        }
    }

    /// Merges upwards from the table of `level` (3 or 2) that `ipa` lies in: 512 leaves in a row, all
    /// alike, become one block of the level above, and so on.
    pub fn merge<P: Platform>(&mut self, pool: &Pool<'_, P>, ipa: Ipa, level: u32) {
        let platform = pool.platform();
        for level in (BLOCK_2M_LEVEL..=level).rev() {
            let slot = self.find(platform, ipa, level);
            let Decoded::Leaf(pa, attributes) = slot.decoded else {
                return;
            };
            let base = PhysAddr(pa.0.wrapping_sub(index(ipa, level) << leaf_shift(level)));
            if !base.is_aligned(leaf_size(level - 1)) {
                return;
            }
            // From the end: tables mostly fill from the front.
            let full = cells(platform, slot.table, 0, ENTRIES)
                .rev()
                .zip((0..ENTRIES).rev())
                .all(|(cell, i)| {
                    let output = PhysAddr(base.0.wrapping_add(i << leaf_shift(level)));
                    load(cell) == Descriptor::leaf(level, output, attributes)
                });
            if !full {
                return;
            }
            let pages = leaf_size(level - 1) >> PAGE_SHIFT;
            self.replace_table(pool, ipa, base, pages, attributes);
        }
    }

    /// Puts a block of `pages` pages, of which `ipa` is in one, where a table of leaves is now.
    pub fn replace_table<P: Platform>(
        &mut self,
        pool: &Pool<'_, P>,
        ipa: Ipa,
        pa: PhysAddr,
        pages: u64,
        attributes: Attributes,
    ) {
        let level = level_of(pages);
        let slot = self.find(pool.platform(), ipa, level);
        let Decoded::Table(table) = slot.decoded else {
            broken("merging what is not a table")
        };
        let block = Descriptor::leaf(level, pa, attributes);
        self.break_before_make(pool, ipa, slot.cell, true, block);
        pool.free(TableFrame::unlinked(table));
    }

    /// Frees the table, at most about `budget` frames at a time. [`Error::Again`] if there is more to
    /// do. From the first call on nothing is mapped any more, in no TLB either, and nothing can be.
    pub fn teardown<P: Platform>(&mut self, pool: &Pool<'_, P>, budget: u64) -> Result<(), Error> {
        let platform = pool.platform();
        let Some(root) = self.root.as_ref().map(TableFrame::pfn) else {
            return Ok(());
        };
        if !self.closed {
            self.closed = true;
            for cell in cells(platform, root, 0, ENTRIES) {
                store(cell, load(cell).retired());
            }
            self.invalidate(pool, Ipa(0), true);
        }
        let mut left = budget;
        for cell in cells(platform, root, 0, ENTRIES) {
            let Some(table) = load(cell).retired_table() else {
                continue;
            };
            for cell in cells(platform, Pfn::of(table), 0, ENTRIES) {
                let Decoded::Table(pages) = load(cell).decode(BLOCK_2M_LEVEL) else {
                    continue;
                };
                if left == 0 {
                    return Err(Error::Again);
                }
                left -= 1;
                store(cell, Descriptor::INVALID);
                pool.free(TableFrame::unlinked(pages));
            }
            if left == 0 {
                return Err(Error::Again);
            }
            left -= 1;
            store(cell, Descriptor::INVALID);
            pool.free(TableFrame::unlinked(table));
        }
        if let Some(root) = self.root.take() {
            pool.free(root);
        }
        Ok(())
    }

    /// Replaces the live descriptor in `cell`, which translates `ipa` (Arm ARM D8.16.1).
    fn break_before_make<P: Platform>(
        &self,
        pool: &Pool<'_, P>,
        ipa: Ipa,
        cell: &AtomicU64,
        several_leaves: bool,
        make: Descriptor,
    ) {
        store(cell, Descriptor::INVALID);
        self.invalidate(pool, ipa, several_leaves);
        store(cell, make);
        pool.platform().publish();
    }

    /// Makes the removal of descriptors on the walk of `ipa` take effect everywhere. `several_leaves`:
    /// leaves of other IPAs went with them.
    fn invalidate<P: Platform>(&self, pool: &Pool<'_, P>, ipa: Ipa, several_leaves: bool) {
        let platform = pool.platform();
        platform.publish();
        if several_leaves {
            platform.invalidate_vmid(self.regs);
        } else {
            platform.invalidate_ipa(self.regs, ipa);
        }
    }

    /// Walks towards `target` until there is no table to go on with. `ipa` is below the limit.
    fn find<'p, P: Platform>(&self, platform: &'p P, ipa: Ipa, target: u32) -> Slot<'p> {
        let Some(root) = &self.root else {
            broken("walk of a table that was torn down")
        };
        let mut level = self.geometry.start_level;
        let concatenated = ipa.0 >> leaf_shift(level) >> 9;
        // Below the limit it is always less than `root_frames`.
        let concatenated = concatenated.checked_rem(self.geometry.root_frames);
        let mut table = Pfn(root.pfn().0 + concatenated.unwrap_or(0));
        loop {
            let cell = cell(platform, table, index(ipa, level));
            let decoded = load(cell).decode(level);
            match decoded {
                Decoded::Table(next) if level < target => {
                    table = Pfn::of(next);
                    level += 1;
                }
                _ => {
                    return Slot {
                        cell,
                        table,
                        level,
                        decoded,
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
