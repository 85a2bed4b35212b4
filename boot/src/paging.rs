//! The EL2 identity map: all usable RAM writable and never executable, the image by its sections,
//! stacks without their guard pages, and the devices the core itself uses.
//!
//! Nothing is remapped later, so what must not change cannot be written by the core itself: text with the
//! exception vectors, constants, and the tables of this map.

use crate::image;
use crate::panic::refuse;
use abi::PAGE_SIZE;
use arch::el2::{cache, mmu};
use arch::stage1::{Builder, Kind, MapError, TableStore};
use boot::info::{BootInfo, Gic, GicV2, MAX_RAM};
use boot::layout::STACKS;
use boot::ranges::{List, Range};
use core::ptr;

/// Tables in a range of RAM, handed out upwards, with the MMU off.
struct Tables {
    next: u64,
    end: u64,
}

impl TableStore for Tables {
    fn allocate(&mut self) -> Option<u64> {
        let table = self.next;
        if table + PAGE_SIZE > self.end {
            return None;
        }
        self.next += PAGE_SIZE;
        (0..PAGE_SIZE / 8).for_each(|index| self.write(table, index, 0));
        Some(table)
    }

    fn read(&self, table: u64, index: u64) -> u64 {
        // SAFETY: the builder passes tables from `allocate` and indices below 512.
        unsafe { ptr::read_volatile((table + index * 8) as *const u64) }
    }

    fn write(&mut self, table: u64, index: u64, entry: u64) {
        // SAFETY: as in `read`; the range is set aside for tables and nothing else refers to it.
        unsafe { ptr::write_volatile((table + index * 8) as *mut u64, entry) }
    }
}

/// Builds the map in `tables`, switches it on, and returns it for the other CPUs. `tree` is the
/// device tree, wherever firmware put it.
pub(crate) fn start(info: &BootInfo, tables: Range, tree: Range) -> mmu::Regime {
    let root = match build(info, tables, tree) {
        Ok(root) => root,
        Err((range, error)) => refuse(format_args!(
            "cannot map {:#x}-{:#x} at EL2: {error:?}",
            range.start, range.end
        )),
    };
    let written = Range {
        start: image::constants().start,
        end: image::all().end,
    };
    // SAFETY: everything written so far went past the caches, which hold no dirty line of these
    // ranges since the entry stub cleaned them.
    unsafe {
        cache::invalidate(tables.start, tables.size());
        cache::invalidate(written.start, written.size());
    }
    let regime = mmu::Regime::new(root);
    // SAFETY: the MMU is off; the tables map the image, its stacks and all RAM at their own
    // addresses, lie in the core's memory for good, and were just dropped from the caches.
    unsafe { regime.enable() };
    regime
}

fn build(info: &BootInfo, tables: Range, tree: Range) -> Result<u64, (Range, MapError)> {
    let store = Tables {
        next: tables.start,
        end: tables.end,
    };
    let mut builder = Builder::new(store).map_err(|error| (tables, error))?;
    let mut map = |range: Range, kind| {
        builder
            .map(range.start, range.end, kind)
            .map_err(|error| (range, error))
    };
    map(image::text(), Kind::Text)?;
    map(image::constants(), Kind::ReadOnly)?;
    map(image::data(), Kind::Data)?;
    for index in 0..STACKS {
        map(image::stack(index), Kind::Data)?;
    }
    map(tables, Kind::ReadOnly)?;
    // All RAM, and the tree in case firmware keeps it in memory it reserves.
    let mut ram = List::<Range, { MAX_RAM + 3 }>::default();
    for &range in info.ram.iter().chain([&tree.grown_to(PAGE_SIZE)]) {
        ram.push(range)
            .map_err(|_| (range, MapError::OutOfTables))?;
    }
    ram.normalise();
    ram.subtract(image::all());
    ram.subtract(tables);
    for &range in ram.iter() {
        map(range, Kind::Data)?;
    }
    if let Some(uart) = info.uart {
        map(Range::sized(uart.base, 1).grown_to(PAGE_SIZE), Kind::Device)?;
    }
    match info.gic {
        Gic::V3 {
            distributor,
            redistributors,
            ..
        } => {
            map(distributor.grown_to(PAGE_SIZE), Kind::Device)?;
            for row in redistributors.iter() {
                map(
                    Range::sized(row.base, row.size).grown_to(PAGE_SIZE),
                    Kind::Device,
                )?;
            }
        }
        Gic::V2(GicV2 {
            hypervisor: Some(gich),
            ..
        }) => map(
            Range::sized(gich, PAGE_SIZE).grown_to(PAGE_SIZE),
            Kind::Device,
        )?,
        Gic::V2(_) | Gic::Unknown => {}
    }
    Ok(builder.root())
}
