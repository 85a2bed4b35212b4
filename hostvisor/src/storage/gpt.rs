//! GUID partition tables (UEFI 2.10 §5.3), read only.
//!
//! Whoever writes to the whole disk writes the table, guests included: every field is checked before use, sizes
//! are bounded, and a table whose partitions overlap is refused, since two VMs would share what each was given
//! alone.

use super::CRC32;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// Most entries that are looked at; the usual table has 128.
const MAX_ENTRIES: u32 = 512;
/// Most bytes of an entry; the usual has 128.
const MAX_ENTRY: u32 = 1024;
/// Bytes of a header that the standard defines.
const HEADER: usize = 92;

/// A partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Its label, possibly empty. Chosen by whoever wrote the table.
    pub label: String,
    /// First logical block.
    pub first: u64,
    /// Logical blocks.
    pub blocks: u64,
}

/// Why there are no partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// There is no table.
    NoTable,
    /// There was one: both copies are damaged.
    Damaged,
    /// The first copy is whole, and of a larger disk; there is no other.
    Larger,
    /// Two partitions overlap, or one lies outside the disk.
    Overlap,
    /// The disk does not deliver it.
    Unreadable,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoTable => "no GUID partition table",
            Self::Damaged => "partition table damaged, and its backup too",
            Self::Larger => "partition table of a larger disk: this one is cut off",
            Self::Overlap => "partitions overlap or lie outside the disk",
            Self::Unreadable => "partition table cannot be read",
        })
    }
}

/// A disk to read from.
pub trait Blocks {
    /// Bytes of a logical block, 512 or more.
    fn block_size(&self) -> usize;
    /// Logical blocks.
    fn blocks(&self) -> u64;
    /// Reads whole blocks, from block `first` on. False if that fails.
    fn read(&mut self, first: u64, to: &mut [u8]) -> bool;
}

/// Why one copy of the table is not used.
enum Bad {
    /// No signature.
    Absent,
    Damaged,
    /// Whole, but it has blocks that the disk has not.
    Larger,
    Unreadable,
    Overlap,
}

/// Reads the table at block 1, or its backup in the last block. True in the answer if it is the backup.
pub fn read(disk: &mut impl Blocks) -> Result<(Vec<Partition>, bool), Fault> {
    let Some(last) = disk.blocks().checked_sub(1).filter(|&last| last >= 2) else {
        return Err(Fault::NoTable);
    };
    let first = match copy(disk, 1) {
        Ok(all) => return Ok((all, false)),
        Err(bad) => bad,
    };
    match (first, copy(disk, last)) {
        (Bad::Overlap, _) | (_, Err(Bad::Overlap)) => Err(Fault::Overlap),
        (_, Ok(all)) => Ok((all, true)),
        (Bad::Absent, Err(Bad::Absent)) => Err(Fault::NoTable),
        (Bad::Larger, Err(_)) => Err(Fault::Larger),
        (Bad::Unreadable, Err(_)) | (_, Err(Bad::Unreadable)) => Err(Fault::Unreadable),
        _ => Err(Fault::Damaged),
    }
}

/// Reads the copy whose header is in block `at`.
fn copy(disk: &mut impl Blocks, at: u64) -> Result<Vec<Partition>, Bad> {
    let mut block = vec![0; disk.block_size()];
    if !disk.read(at, &mut block) {
        return Err(Bad::Unreadable);
    }
    let header = Header::read(&block, at, disk.blocks())?;
    let bytes = header.bytes();
    let mut table = vec![0; bytes.next_multiple_of(disk.block_size())];
    if !disk.read(header.table, &mut table) {
        return Err(Bad::Unreadable);
    }
    let table = table.get(..bytes).ok_or(Bad::Damaged)?;
    if CRC32.checksum(table) != header.table_crc {
        return Err(Bad::Damaged);
    }
    let entries = table.chunks_exact(header.entry_size as usize);
    let all: Option<Vec<_>> = entries
        .filter(|entry| entry.iter().take(16).any(|&b| b != 0))
        .map(|entry| header.partition(entry))
        .collect();
    let all = all.ok_or(Bad::Overlap)?;
    if overlap(&all) {
        return Err(Bad::Overlap);
    }
    Ok(all)
}

/// What is needed of a header.
struct Header {
    /// First and last block for partitions.
    usable: (u64, u64),
    /// First block of the entries.
    table: u64,
    entries: u32,
    entry_size: u32,
    table_crc: u32,
}

impl Header {
    fn read(block: &[u8], at: u64, blocks: u64) -> Result<Self, Bad> {
        if block.get(..8) != Some(b"EFI PART") {
            return Err(Bad::Absent);
        }
        let header = Self::whole(block, at).ok_or(Bad::Damaged)?;
        if header.usable.1 >= blocks || header.end(block.len()).is_none_or(|end| end > blocks) {
            return Err(Bad::Larger);
        }
        Ok(header)
    }

    /// The header, if its checksum is right and it makes sense by itself.
    fn whole(block: &[u8], at: u64) -> Option<Self> {
        let size = u32_at(block, 12)? as usize;
        if size < HEADER || size > block.len() {
            return None;
        }
        let mut header = block.get(..size)?.to_vec();
        // Its own checksum counts as zero.
        header.get_mut(16..20)?.fill(0);
        if CRC32.checksum(&header) != u32_at(block, 16)? || u64_at(block, 24)? != at {
            return None;
        }
        let read = Self {
            usable: (u64_at(block, 40)?, u64_at(block, 48)?),
            table: u64_at(block, 72)?,
            entries: u32_at(block, 80)?,
            entry_size: u32_at(block, 84)?,
            table_crc: u32_at(block, 88)?,
        };
        let sane = (1..=MAX_ENTRIES).contains(&read.entries)
            && (128..=MAX_ENTRY).contains(&read.entry_size)
            && read.entry_size.is_power_of_two()
            && read.usable.0 <= read.usable.1
            && read.table >= 1;
        sane.then_some(read)
    }

    /// Bytes of the entries.
    fn bytes(&self) -> usize {
        self.entries as usize * self.entry_size as usize
    }

    /// The first block behind the entries, with blocks of `block` bytes.
    fn end(&self, block: usize) -> Option<u64> {
        self.table.checked_add(self.bytes().div_ceil(block) as u64)
    }

    /// An entry in use; `None` if it lies outside the usable blocks.
    fn partition(&self, entry: &[u8]) -> Option<Partition> {
        let (first, last) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
        if first < self.usable.0 || last > self.usable.1 || first > last {
            return None;
        }
        let name = entry.get(56..128)?.chunks_exact(2);
        let units = name
            .filter_map(|b| b.try_into().ok().map(u16::from_le_bytes))
            .take_while(|&unit| unit != 0);
        let label = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
        Some(Partition {
            label: label.collect(),
            first,
            blocks: last - first + 1,
        })
    }
}

fn overlap(all: &[Partition]) -> bool {
    let mut ranges: Vec<_> = all.iter().map(|p| (p.first, p.blocks)).collect();
    ranges.sort_unstable();
    ranges
        .windows(2)
        .any(|pair| matches!(*pair, [(first, blocks), (next, _)] if next - first < blocks))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
#[path = "gpt_tests.rs"]
mod tests;
