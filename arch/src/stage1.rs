//! EL2 stage-1 translation tables: 48-bit identity map, 4 KiB granule (Arm ARM D8.3, single VA range).
//!
//! Builds tables in memory it is handed, with the largest blocks that fit. It runs once, before the
//! MMU is on; nothing is ever remapped, so there is no break-before-make here. Plain code over the
//! [`TableStore`] trait: host tests walk what it builds.

/// Bytes of a table, a page and the smallest mapping.
const PAGE: u64 = 4096;
/// Bits of address resolved by one level.
const LEVEL_BITS: u32 = 9;
/// Entries of a table.
const ENTRIES: u64 = 1 << LEVEL_BITS;
/// Input address size.
pub const VA_BITS: u32 = 48;

const VALID: u64 = 1 << 0;
/// Table at levels 0–2, page at level 3.
const TABLE_OR_PAGE: u64 = 1 << 1;
const ATTR_INDEX_SHIFT: u32 = 2;
/// AP[1]: RES1 in a regime with one privilege level.
const AP1_RES1: u64 = 1 << 6;
/// AP[2]: read-only.
const AP2_READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
const EXECUTE_NEVER: u64 = 1 << 54;
/// Next-level table or output address, bits 47:12.
const ADDRESS: u64 = 0x0000_FFFF_FFFF_F000;

/// MAIR_EL2 for [`Kind`]: attribute 0 normal write-back, 1 device nGnRE.
pub const MAIR: u64 = 0xFF | 0x04 << 8;

/// What a mapping is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Instructions: read and execute.
    Text,
    /// Constants: read.
    ReadOnly,
    /// Data: read and write.
    Data,
    /// MMIO: read and write, device nGnRE.
    Device,
}

impl Kind {
    const fn attributes(self) -> u64 {
        let normal = INNER_SHAREABLE;
        let common = VALID | ACCESS_FLAG | AP1_RES1;
        common
            | match self {
                Self::Text => normal | AP2_READ_ONLY,
                Self::ReadOnly => normal | AP2_READ_ONLY | EXECUTE_NEVER,
                Self::Data => normal | EXECUTE_NEVER,
                Self::Device => EXECUTE_NEVER | 1 << ATTR_INDEX_SHIFT,
            }
    }
}

/// Where tables live.
pub trait TableStore {
    /// The physical address of a zeroed, unused 4 KiB table, or `None` when they are used up.
    fn allocate(&mut self) -> Option<u64>;
    /// Entry `index` (below 512) of the table at `table`.
    fn read(&self, table: u64, index: u64) -> u64;
    /// Sets entry `index` (below 512) of the table at `table`.
    fn write(&mut self, table: u64, index: u64, entry: u64);
}

/// Why a range could not be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// Not page-aligned, or beyond 48 bits.
    BadRange,
    /// Part of it is mapped already, at this address.
    Overlap(u64),
    /// The store has no table left.
    OutOfTables,
}

/// A translation table under construction.
pub struct Builder<S: TableStore> {
    store: S,
    root: u64,
}

impl<S: TableStore> Builder<S> {
    /// An empty table in `store`.
    ///
    /// # Errors
    /// [`MapError::OutOfTables`].
    pub fn new(mut store: S) -> Result<Self, MapError> {
        let root = store.allocate().ok_or(MapError::OutOfTables)?;
        Ok(Self { store, root })
    }

    /// The physical address of the level 0 table, for TTBR0_EL2.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The store, to see what was used.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Maps the physical bytes `start..end` at the same virtual addresses.
    ///
    /// # Errors
    /// See [`MapError`]; part of the range may be mapped then.
    pub fn map(&mut self, start: u64, end: u64, kind: Kind) -> Result<(), MapError> {
        if !start.is_multiple_of(PAGE)
            || !end.is_multiple_of(PAGE)
            || end > 1 << VA_BITS
            || start > end
        {
            return Err(MapError::BadRange);
        }
        let mut address = start;
        while address < end {
            address += self.map_one(address, end - address, kind)?;
        }
        Ok(())
    }

    /// Maps the largest block that starts at `address` and is at most `room` bytes; returns its size.
    fn map_one(&mut self, address: u64, room: u64, kind: Kind) -> Result<u64, MapError> {
        let mut table = self.root;
        let mut level = 0;
        loop {
            let shift = 12 + LEVEL_BITS * (3 - level);
            let size = 1 << shift;
            let index = (address >> shift) & (ENTRIES - 1);
            let entry = self.store.read(table, index);
            // Level 0 has no blocks with this granule.
            if level > 0 && address.is_multiple_of(size) && room >= size {
                if entry & VALID != 0 {
                    return Err(MapError::Overlap(address));
                }
                let page = if level == 3 { TABLE_OR_PAGE } else { 0 };
                self.store
                    .write(table, index, address | kind.attributes() | page);
                return Ok(size);
            }
            table = if entry & VALID == 0 {
                let next = self.store.allocate().ok_or(MapError::OutOfTables)?;
                self.store.write(table, index, next | VALID | TABLE_OR_PAGE);
                next
            } else if entry & TABLE_OR_PAGE != 0 && level < 3 {
                entry & ADDRESS
            } else {
                return Err(MapError::Overlap(address));
            };
            level += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Vector {
        tables: Vec<[u64; 512]>,
        limit: usize,
    }

    impl TableStore for Vector {
        fn allocate(&mut self) -> Option<u64> {
            (self.tables.len() < self.limit).then(|| {
                self.tables.push([0; 512]);
                (self.tables.len() as u64) * PAGE
            })
        }
        fn read(&self, table: u64, index: u64) -> u64 {
            self.tables[(table / PAGE - 1) as usize][index as usize]
        }
        fn write(&mut self, table: u64, index: u64, entry: u64) {
            self.tables[(table / PAGE - 1) as usize][index as usize] = entry;
        }
    }

    fn builder(limit: usize) -> Builder<Vector> {
        Builder::new(Vector {
            tables: Vec::new(),
            limit,
        })
        .unwrap()
    }

    /// An architectural walk: `(output address, descriptor)`.
    fn walk(b: &Builder<Vector>, va: u64) -> Option<(u64, u64)> {
        let mut table = b.root();
        for level in 0..4 {
            let shift = 12 + 9 * (3 - level);
            let entry = b.store().read(table, (va >> shift) & 511);
            match (entry & 3, level) {
                (3, 3) => return Some((entry & ADDRESS | va & 0xfff, entry)),
                (3, _) => table = entry & ADDRESS,
                (1, 1 | 2) => {
                    let offset = (1 << shift) - 1;
                    return Some((entry & ADDRESS & !offset | va & offset, entry));
                }
                _ => return None,
            }
        }
        None
    }

    fn writable(descriptor: u64) -> bool {
        descriptor & AP2_READ_ONLY == 0
    }

    fn executable(descriptor: u64) -> bool {
        descriptor & EXECUTE_NEVER == 0
    }

    #[test]
    fn every_byte_maps_to_itself_and_the_neighbours_do_not() {
        let mut b = builder(64);
        let ranges = [
            (0x4000_0000, 0x4020_0000, Kind::Data),
            (0x4020_0000, 0x4023_1000, Kind::Text),
            (0x4023_1000, 0x4029_0000, Kind::ReadOnly),
            (0x4029_1000, 0x40_8000_0000, Kind::Data),
            (0x0900_0000, 0x0900_1000, Kind::Device),
        ];
        for (start, end, kind) in ranges {
            b.map(start, end, kind).unwrap();
        }
        for (start, end, kind) in ranges {
            for va in [start, start + 8, (start + end) / 2, end - 1] {
                let (pa, descriptor) = walk(&b, va).unwrap();
                assert_eq!(pa, va);
                assert_eq!(executable(descriptor), kind == Kind::Text);
                assert_eq!(
                    writable(descriptor),
                    matches!(kind, Kind::Data | Kind::Device)
                );
                assert_eq!(descriptor >> 2 & 7 == 1, kind == Kind::Device);
                assert_ne!(descriptor & ACCESS_FLAG, 0);
            }
        }
        for hole in [
            0x3fff_f000,
            0x4029_0000,
            0x4029_0fff,
            0x40_8000_0000,
            0x0900_1000,
            0,
        ] {
            assert_eq!(walk(&b, hole), None, "{hole:#x}");
        }
    }

    #[test]
    fn nothing_is_both_writable_and_executable() {
        for kind in [Kind::Text, Kind::ReadOnly, Kind::Data, Kind::Device] {
            let attributes = kind.attributes();
            assert!(
                !(writable(attributes) && executable(attributes)),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn large_ranges_cost_few_tables() {
        let mut b = builder(64);
        b.map(0x4000_0000, 0x4000_0000 + (64 << 30), Kind::Data)
            .unwrap();
        assert_eq!(b.store().tables.len(), 2);
    }

    #[test]
    fn a_second_mapping_of_a_page_is_refused_at_every_level() {
        for (start, end) in [
            (0x4000_0000, 0x8000_0000),
            (0x4020_0000, 0x4040_0000),
            (0x4020_3000, 0x4020_4000),
        ] {
            let mut b = builder(64);
            b.map(0x4000_0000, 0x8000_0000, Kind::Data).unwrap();
            assert_eq!(b.map(start, end, Kind::Text), Err(MapError::Overlap(start)));
            let mut b = builder(64);
            b.map(0x4020_3000, 0x4020_4000, Kind::Data).unwrap();
            assert!(matches!(
                b.map(start, end, Kind::Text),
                Err(MapError::Overlap(_))
            ));
        }
    }

    #[test]
    fn bad_ranges_and_an_empty_store_are_errors() {
        let mut b = builder(3);
        assert_eq!(b.map(0x1001, 0x3000, Kind::Data), Err(MapError::BadRange));
        assert_eq!(b.map(0x1000, 0x3001, Kind::Data), Err(MapError::BadRange));
        assert_eq!(b.map(0x3000, 0x1000, Kind::Data), Err(MapError::BadRange));
        assert_eq!(
            b.map(0, (1 << 48) + PAGE, Kind::Data),
            Err(MapError::BadRange)
        );
        assert_eq!(
            b.map(0x1000, 0x2000, Kind::Data),
            Err(MapError::OutOfTables)
        );
    }
}
