//! Between lists of segments, and between them and bytes.
//!
//! Offsets count from the first byte of a list. Nothing is done if the list is too short: the callers have
//! checked lengths, and what they did not check is not to be reached.

use crate::hw::{self, CopyFault, Unreachable};
use crate::segment::Segment;

/// Calls `each` with the pieces that `bytes` bytes from `offset` on consist of: address, length, and how many
/// bytes came before.
#[inline]
fn pieces<E>(
    list: &[Segment],
    mut offset: u64,
    bytes: u64,
    short: E,
    mut each: impl FnMut(u64, u64, u64) -> Result<(), E>,
) -> Result<(), E> {
    let mut done = 0;
    for segment in list {
        if done == bytes {
            break;
        }
        let len = u64::from(segment.len);
        if offset >= len {
            offset -= len;
            continue;
        }
        let piece = (len - offset).min(bytes - done);
        each(segment.pa + offset, piece, done)?;
        offset = 0;
        done += piece;
    }
    if done == bytes { Ok(()) } else { Err(short) }
}

/// Reads from `offset` on.
#[inline]
pub fn read(list: &[Segment], offset: u64, out: &mut [u8]) -> Result<(), Unreachable> {
    pieces(
        list,
        offset,
        out.len() as u64,
        Unreachable,
        |pa, len, done| {
            let to = out.get_mut(done as usize..(done + len) as usize);
            hw::pool_read(pa, to.ok_or(Unreachable)?)
        },
    )
}

/// Writes from `offset` on.
#[inline]
pub fn write(list: &[Segment], offset: u64, bytes: &[u8]) -> Result<(), Unreachable> {
    pieces(
        list,
        offset,
        bytes.len() as u64,
        Unreachable,
        |pa, len, done| {
            let from = bytes.get(done as usize..(done + len) as usize);
            hw::pool_write(pa, from.ok_or(Unreachable)?)
        },
    )
}

/// Copies `bytes` bytes between two lists.
#[inline]
pub fn copy(
    to: &[Segment],
    to_offset: u64,
    from: &[Segment],
    from_offset: u64,
    bytes: u64,
) -> Result<(), CopyFault> {
    let mut target = to.iter();
    let mut current = Segment::default();
    let mut skip = to_offset;
    pieces(
        from,
        from_offset,
        bytes,
        CopyFault::Source,
        |mut pa, mut len, _| {
            while len != 0 {
                if current.len == 0 {
                    current = *target.next().ok_or(CopyFault::Target)?;
                    let skipped = skip.min(current.len.into());
                    skip -= skipped;
                    current.pa += skipped;
                    current.len -= skipped as u32;
                    continue;
                }
                let piece = len.min(current.len.into());
                hw::pool_copy(current.pa, pa, piece)?;
                current.pa += piece;
                current.len -= piece as u32;
                pa += piece;
                len -= piece;
            }
            Ok(())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw::TestRam;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn lists() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(1u32..50, 1..8)
    }

    /// Segments of these lengths, with gaps, from `at` on.
    fn list(at: u64, lengths: &[u32]) -> Vec<Segment> {
        let mut pa = at;
        let segment = |&len: &u32| {
            let segment = Segment { pa, len };
            pa += u64::from(len) + 3;
            segment
        };
        lengths.iter().map(segment).collect()
    }

    proptest! {
        /// What is written somewhere is read there, whatever the pieces are; nothing else changes.
        #[test]
        fn copies_move_exactly_the_bytes_named(
            from in lists(), to in lists(), from_offset in 0u64..60, to_offset in 0u64..60, bytes in 0u64..80,
        ) {
            let ram = TestRam::new(8192);
            let (from, to) = (list(ram.base(), &from), list(ram.base() + 4096, &to));
            let total = |list: &[Segment]| crate::segment::total(list);
            let pattern: Vec<u8> = (0..total(&from)).map(|n| n as u8 | 1).collect();
            write(&from, 0, &pattern).unwrap();
            let fits = bytes == 0
                || from_offset + bytes <= total(&from) && to_offset + bytes <= total(&to);
            prop_assert_eq!(copy(&to, to_offset, &from, from_offset, bytes).is_ok(), fits);
            if fits {
                let mut all = [0; 4096];
                hw::pool_read(ram.base() + 4096, &mut all).unwrap();
                prop_assert_eq!(all.iter().filter(|&&b| b != 0).count() as u64, bytes);
                let mut back = alloc::vec![0; bytes as usize];
                read(&to, to_offset, &mut back).unwrap();
                // An empty copy may start anywhere, beyond the end too: no slice of the pattern then.
                let meant = pattern.iter().skip(from_offset as usize).take(bytes as usize);
                prop_assert!(back.iter().eq(meant), "{back:?}");
            }
        }
    }
}
