use super::*;
use proptest::prelude::*;

const BLOCK: usize = 512;

/// A disk in memory, some of whose blocks cannot be read.
struct Image {
    bytes: Vec<u8>,
    unreadable: Option<u64>,
}

impl Blocks for Image {
    fn block_size(&self) -> usize {
        BLOCK
    }

    fn blocks(&self) -> u64 {
        (self.bytes.len() / BLOCK) as u64
    }

    fn read(&mut self, first: u64, to: &mut [u8]) -> bool {
        assert!(to.len() <= 1 << 20, "{} bytes asked for", to.len());
        let count = (to.len() / BLOCK) as u64;
        if self
            .unreadable
            .is_some_and(|bad| (first..first + count).contains(&bad))
        {
            return false;
        }
        let start = first as usize * BLOCK;
        match self.bytes.get(start..start + to.len()) {
            Some(from) => to.copy_from_slice(from),
            None => panic!("read of blocks {first}+{count} behind the end"),
        }
        true
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Writes the header in block `at` anew, with good checksums.
fn seal(bytes: &mut [u8], at: usize, table: usize) {
    let crc = CRC32.checksum(&bytes[table * BLOCK..table * BLOCK + 128 * 128]);
    let header = &mut bytes[at * BLOCK..at * BLOCK + HEADER];
    put(header, 88, &crc.to_le_bytes());
    put(header, 16, &[0; 4]);
    let crc = CRC32.checksum(header);
    put(header, 16, &crc.to_le_bytes());
}

/// 2048 blocks with a table and its backup.
fn image(partitions: &[(&str, u64, u64)]) -> Image {
    let blocks = 2048_usize;
    let mut bytes = vec![0; blocks * BLOCK];
    for (at, other, table) in [(1, blocks - 1, 2), (blocks - 1, 1, blocks - 33)] {
        for (i, (label, first, last)) in partitions.iter().enumerate() {
            let entry = &mut bytes[table * BLOCK + i * 128..][..128];
            put(entry, 0, &[0xaf; 32]);
            put(entry, 32, &first.to_le_bytes());
            put(entry, 40, &last.to_le_bytes());
            for (j, unit) in label.encode_utf16().enumerate() {
                put(entry, 56 + j * 2, &unit.to_le_bytes());
            }
        }
        let header = &mut bytes[at * BLOCK..][..HEADER];
        put(header, 0, b"EFI PART\0\0\x01\0\x5c\0\0\0");
        put(header, 24, &(at as u64).to_le_bytes());
        put(header, 32, &(other as u64).to_le_bytes());
        put(header, 40, &34_u64.to_le_bytes());
        put(header, 48, &(blocks as u64 - 34).to_le_bytes());
        put(header, 72, &(table as u64).to_le_bytes());
        put(header, 80, &128_u32.to_le_bytes());
        put(header, 84, &128_u32.to_le_bytes());
        seal(&mut bytes, at, table);
    }
    Image {
        bytes,
        unreadable: None,
    }
}

fn two() -> Image {
    image(&[("root", 40, 1039), ("Datenträger", 1040, 1043)])
}

fn expected() -> Vec<Partition> {
    let partition = |label: &str, first, blocks| Partition {
        label: label.into(),
        first,
        blocks,
    };
    vec![
        partition("root", 40, 1000),
        partition("Datenträger", 1040, 4),
    ]
}

#[test]
fn reads_labels_and_extents() {
    assert_eq!(read(&mut two()), Ok((expected(), false)));
}

#[test]
fn no_table_is_not_a_damaged_one() {
    let mut empty = Image {
        bytes: vec![0; 64 * BLOCK],
        unreadable: None,
    };
    assert_eq!(read(&mut empty), Err(Fault::NoTable));
    empty.bytes.clear();
    assert_eq!(read(&mut empty), Err(Fault::NoTable));
}

#[test]
fn the_backup_takes_the_place_of_what_is_damaged_or_unreadable() {
    for at in [BLOCK + 50, 2 * BLOCK + 33] {
        let mut disk = two();
        disk.bytes[at] ^= 1;
        assert_eq!(read(&mut disk), Ok((expected(), true)));
        let backup = disk.bytes.len() - BLOCK + 50;
        disk.bytes[backup] ^= 1;
        assert_eq!(read(&mut disk), Err(Fault::Damaged));
    }
    for block in [1, 2] {
        let mut disk = two();
        disk.unreadable = Some(block);
        assert_eq!(read(&mut disk), Ok((expected(), true)));
    }
}

#[test]
fn a_disk_that_was_cut_off_says_so() {
    let mut disk = two();
    disk.bytes.truncate(1000 * BLOCK);
    assert_eq!(read(&mut disk), Err(Fault::Larger));
    // Nobody knows what a damaged table was of.
    disk.bytes[BLOCK + 50] ^= 1;
    assert_eq!(read(&mut disk), Err(Fault::Damaged));
}

#[test]
fn overlapping_partitions_are_refused() {
    let mut disk = image(&[("a", 40, 100), ("b", 200, 300), ("c", 100, 150)]);
    assert_eq!(read(&mut disk), Err(Fault::Overlap));
}

#[test]
fn partitions_outside_the_usable_blocks_are_refused() {
    for (first, last) in [(1, 100), (40, 2040), (100, 50), (40, u64::MAX)] {
        let mut disk = image(&[("a", first, last)]);
        assert_eq!(read(&mut disk), Err(Fault::Overlap), "{first}..={last}");
    }
}

#[test]
fn absurd_headers_with_good_checksums_are_refused() {
    let absurd: [(usize, &[u8]); 8] = [
        (80, &u32::MAX.to_le_bytes()),
        (80, &0_u32.to_le_bytes()),
        (84, &u32::MAX.to_le_bytes()),
        (84, &64_u32.to_le_bytes()),
        (72, &u64::MAX.to_le_bytes()),
        (72, &2047_u64.to_le_bytes()),
        (48, &u64::MAX.to_le_bytes()),
        (24, &7_u64.to_le_bytes()),
    ];
    for (offset, value) in absurd {
        let mut disk = two();
        put(&mut disk.bytes, BLOCK + offset, value);
        seal(&mut disk.bytes, 1, 2);
        assert_eq!(read(&mut disk), Ok((expected(), true)), "{offset}");
    }
}

proptest! {
    /// Whatever the bytes, with checksums made right: no panic, nothing read behind the end, and what is found
    /// lies on the disk and does not overlap.
    #[test]
    fn hostile_tables_never_name_what_is_not_there(
        header in proptest::collection::vec((20_usize..88, any::<u8>()), 0..6),
        table in proptest::collection::vec((0_usize..512, any::<u8>()), 0..40),
    ) {
        let mut disk = two();
        for (at, byte) in header {
            disk.bytes[BLOCK + at] = byte;
        }
        for (at, byte) in table {
            disk.bytes[2 * BLOCK + at] = byte;
        }
        seal(&mut disk.bytes, 1, 2);
        if let Ok((all, _)) = read(&mut disk) {
            let blocks = disk.blocks();
            for p in &all {
                prop_assert!(p.blocks > 0 && p.first < blocks && p.blocks <= blocks - p.first);
            }
            prop_assert!(!overlap(&all));
        }
    }
}
