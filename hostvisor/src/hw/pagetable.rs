//! The hostvisor's EL1 stage-1 tables as plain data: identity, 4 KiB granule, 48-bit addresses.
//!
//! Entries only ever go from invalid to valid, so no break-before-make and no TLB maintenance is
//! needed; a range that is already mapped stays as it is. Descriptor format: Arm ARM D8.3.

/// Tables in the pool: enough for every RAM and device layout that maps by 2 MiB and 1 GiB blocks.
pub const TABLES: usize = 40;

const ENTRIES: usize = 512;
const PAGE: u64 = 4096;
/// Bytes that one level-2 block maps.
pub const BLOCK_2M: u64 = 2 << 20;
const BLOCK_1G: u64 = 1 << 30;

const VALID: u64 = 1 << 0;
/// Bit 1: a table at levels 0–2, a page at level 3.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// An invalid entry that stays so; hardware ignores all its bits but bit 0.
const GUARD: u64 = 1 << 1;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

const ATTR_NORMAL: u64 = 0 << 2;
const ATTR_DEVICE: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;

/// MAIR_EL1 for the attribute indices used here: 0 normal write-back, 1 Device-nGnRE.
pub const MAIR: u64 = 0x04ff;

/// What a mapping is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing, and nothing is ever mapped here later: a guard page.
    Guard,
    /// Instructions: read, execute.
    Text,
    /// Constants: read.
    Constant,
    /// Memory: read, write.
    Data,
    /// Device-nGnRE: read, write.
    Device,
}

impl Kind {
    /// The leaf entry for output address `at`; `page` if it is one of level 3.
    const fn leaf(self, at: u64, page: bool) -> u64 {
        match self {
            Self::Guard => GUARD,
            _ => at | self.attributes() | VALID | if page { TABLE_OR_PAGE } else { 0 },
        }
    }

    const fn attributes(self) -> u64 {
        ACCESSED
            | UXN
            | match self {
                Self::Guard => READ_ONLY | PXN,
                Self::Text => ATTR_NORMAL | INNER_SHAREABLE | READ_ONLY,
                Self::Constant => ATTR_NORMAL | INNER_SHAREABLE | READ_ONLY | PXN,
                Self::Data => ATTR_NORMAL | INNER_SHAREABLE | PXN,
                Self::Device => ATTR_DEVICE | INNER_SHAREABLE | PXN,
            }
    }
}

/// Why a range could not be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// Not page-aligned, empty, or outside 48 bits.
    BadRange,
    /// The pool has no table left.
    NoTables,
}

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Table([u64; ENTRIES]);

/// The tables; the first one is the root.
pub struct PageTables {
    tables: [Table; TABLES],
    /// Tables in use besides the root; zero at first, so that the pool lies in .bss.
    used: usize,
}

impl Default for PageTables {
    fn default() -> Self {
        Self::new()
    }
}

impl PageTables {
    /// An empty address space.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            tables: [Table([0; ENTRIES]); TABLES],
            used: 0,
        }
    }

    /// Address of the root table, for TTBR0_EL1.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.address_of(0)
    }

    /// Maps `start..end` onto itself in the largest blocks that fit.
    pub fn map(&mut self, start: u64, end: u64, kind: Kind) -> Result<(), MapError> {
        if start >= end || !start.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) || end > 1 << 48
        {
            return Err(MapError::BadRange);
        }
        let mut at = start;
        while at < end {
            at += self.map_one(at, end, kind)?;
        }
        Ok(())
    }

    /// Maps one entry at `at`; answers how many bytes that covers.
    fn map_one(&mut self, at: u64, end: u64, kind: Kind) -> Result<u64, MapError> {
        let mut table = 0;
        for level in 0..4u32 {
            let size = 1u64 << (39 - 9 * level);
            let index = (at >> (39 - 9 * level)) as usize % ENTRIES;
            let whole = at.is_multiple_of(size) && end - at >= size;
            let entry = self.tables[table].0[index];
            if entry == 0 {
                if whole && (size == BLOCK_1G || size == BLOCK_2M || size == PAGE) {
                    self.tables[table].0[index] = kind.leaf(at, size == PAGE);
                    return Ok(size);
                }
                let new = self.used + 1;
                if new >= TABLES {
                    return Err(MapError::NoTables);
                }
                self.used += 1;
                self.tables[table].0[index] = self.address_of(new) | VALID | TABLE_OR_PAGE;
                table = new;
            } else if level == 3 || entry & VALID == 0 || entry & TABLE_OR_PAGE == 0 {
                // Already mapped: leave it, go on behind it.
                return Ok((size - at % size).min(end - at));
            } else {
                table = self.index_of(entry & ADDRESS);
            }
        }
        Err(MapError::BadRange)
    }

    fn address_of(&self, index: usize) -> u64 {
        core::ptr::from_ref(&self.tables[index]).addr() as u64
    }

    fn index_of(&self, address: u64) -> usize {
        ((address - self.address_of(0)) / PAGE) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    /// Walks the tables as the MMU does; answers output address and attributes.
    fn walk(tables: &PageTables, at: u64) -> Option<(u64, u64)> {
        let mut table = 0;
        for level in 0..4u32 {
            let size = 1u64 << (39 - 9 * level);
            let entry = tables.tables[table].0[(at / size) as usize % ENTRIES];
            if entry & VALID == 0 {
                return None;
            }
            if level == 3 || entry & TABLE_OR_PAGE == 0 {
                return Some((
                    (entry & ADDRESS & !(size - 1)) + at % size,
                    entry & !ADDRESS,
                ));
            }
            table = tables.index_of(entry & ADDRESS);
        }
        None
    }

    #[test]
    fn maps_identity_and_nothing_else() {
        let mut t = Box::new(PageTables::new());
        t.map(0x4020_0000, 0x4020_3000, Kind::Text).unwrap();
        t.map(0x4000_0000, 0x10_4000_0000, Kind::Data).unwrap();
        t.map(0x0900_0000, 0x0900_1000, Kind::Device).unwrap();
        for at in [
            0x4000_0000,
            0x4020_0008,
            0x4020_3000,
            0x7fff_fff8,
            0x10_3fff_fff8,
            0x0900_0018,
        ] {
            assert_eq!(walk(&t, at).unwrap().0, at);
        }
        for at in [0, 0x3fff_fff8, 0x10_4000_0000, 0x0900_1000, 0x08ff_fff8] {
            assert!(walk(&t, at).is_none(), "{at:#x}");
        }
        assert!(t.used < 10);
    }

    #[test]
    fn nothing_is_both_writable_and_executable() {
        for kind in [Kind::Text, Kind::Constant, Kind::Data, Kind::Device] {
            let a = kind.attributes();
            assert!(a & READ_ONLY != 0 || a & PXN != 0);
        }
    }

    #[test]
    fn a_guard_page_stays_unmapped() {
        let mut t = Box::new(PageTables::new());
        t.map(0x4020_1000, 0x4020_2000, Kind::Guard).unwrap();
        t.map(0x4060_0000, 0x4080_0000, Kind::Guard).unwrap();
        t.map(0x4000_0000, 0x8000_0000, Kind::Data).unwrap();
        for (at, mapped) in [
            (0x4020_0ff8, true),
            (0x4020_1000, false),
            (0x4020_2000, true),
        ] {
            assert_eq!(walk(&t, at).is_some(), mapped, "{at:#x}");
        }
        for (at, mapped) in [
            (0x405f_fff8, true),
            (0x4070_0000, false),
            (0x4080_0000, true),
        ] {
            assert_eq!(walk(&t, at).is_some(), mapped, "{at:#x}");
        }
    }

    #[test]
    fn a_later_mapping_does_not_change_an_earlier_one() {
        let mut t = Box::new(PageTables::new());
        t.map(0x4020_0000, 0x4020_1000, Kind::Text).unwrap();
        t.map(0x4000_0000, 0x8000_0000, Kind::Data).unwrap();
        assert_eq!(
            walk(&t, 0x4020_0000).unwrap().1 & (READ_ONLY | PXN),
            READ_ONLY
        );
        assert_eq!(walk(&t, 0x4020_1000).unwrap().1 & (READ_ONLY | PXN), PXN);
    }

    #[test]
    fn refuses_bad_ranges_and_a_used_up_pool() {
        let mut t = Box::new(PageTables::new());
        assert_eq!(t.map(0x1000, 0x1000, Kind::Data), Err(MapError::BadRange));
        assert_eq!(t.map(0x1001, 0x2000, Kind::Data), Err(MapError::BadRange));
        assert_eq!(
            t.map(0, (1 << 48) + PAGE, Kind::Data),
            Err(MapError::BadRange)
        );
        let mut last = Ok(());
        for i in 0..64 {
            last = t.map(i << 30 | PAGE, (i << 30) + 2 * PAGE, Kind::Data);
        }
        assert_eq!(last, Err(MapError::NoTables));
    }
}
