//! A guest's addresses: from IPAs to where the bytes are.
//!
//! A VM's memory is whole blocks of 2 MiB, anywhere in the machine, from [`RAM_BASE`] on; which ones does not
//! change while the VM is there. Every IPA here was written by a guest. Whether what it names can be reached, in
//! a protected VM, shows at the access only.

use super::loader::RAM_BASE;
use crate::frames::BLOCK;
use crate::hw::{Unreachable, Window};
use crate::segment::Segment;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Where a VM's memory is.
#[derive(Debug)]
pub struct GuestMemory {
    blocks: Box<[u64]>,
}

/// Not within the VM's memory, or in too many pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outside;

impl GuestMemory {
    /// The memory of a VM that consists of these 2 MiB blocks, in the order of its addresses.
    #[must_use]
    pub fn new(blocks: &[u64]) -> Self {
        Self {
            blocks: blocks.into(),
        }
    }

    /// The physical address behind `ipa`, and how many bytes follow in the same block.
    #[inline]
    fn find(&self, ipa: u64) -> Option<(u64, u64)> {
        let offset = ipa.checked_sub(RAM_BASE.0)?;
        let block = self.blocks.get(usize::try_from(offset / BLOCK).ok()?)?;
        let within = offset % BLOCK;
        Some((block + within, BLOCK - within))
    }

    /// Appends the segments that `bytes` bytes at `ipa` consist of, as long as `out` holds no more than `most`.
    ///
    /// On an error `out` holds some of them.
    #[inline]
    pub fn segments(
        &self,
        mut ipa: u64,
        mut bytes: u32,
        out: &mut Vec<Segment>,
        most: usize,
    ) -> Result<(), Outside> {
        while bytes != 0 {
            let (pa, left) = self.find(ipa).ok_or(Outside)?;
            let len = left.min(u64::from(bytes)) as u32;
            let room = out.len() < most;
            match out.last_mut() {
                // What follows in memory, too, is one piece.
                Some(last)
                    if last.pa + u64::from(last.len) == pa
                        && last.len.checked_add(len).is_some() =>
                {
                    last.len += len;
                }
                _ if room => out.push(Segment { pa, len }),
                _ => return Err(Outside),
            }
            ipa += u64::from(len);
            bytes -= len;
        }
        Ok(())
    }

    /// The area of `bytes` bytes at `ipa`, at most 2 MiB.
    #[must_use]
    pub fn area(&self, ipa: u64, bytes: u64) -> Option<Area> {
        let (pa, left) = self.find(ipa)?;
        let first = Window::new(pa, bytes.min(left))?;
        let rest = match bytes.checked_sub(left) {
            None | Some(0) => None,
            Some(more) if more <= BLOCK => {
                let (pa, _) = self.find(ipa.checked_add(left)?)?;
                Some(Window::new(pa, more)?)
            }
            Some(_) => return None,
        };
        Some(Area { first, rest })
    }
}

/// A small range of a guest's memory, looked up once. It may lie in two blocks: words do not cross from one to
/// the other, as blocks begin at multiples of 2 MiB and the guest's words are aligned (if they are not, they
/// are unreachable).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    first: Window,
    rest: Option<Window>,
}

impl Area {
    /// The window that the word at `offset` is in, and its offset there.
    #[inline]
    fn at(&self, offset: u64) -> Result<(&Window, u64), Unreachable> {
        match offset.checked_sub(self.first.bytes()) {
            None => Ok((&self.first, offset)),
            Some(offset) => Ok((self.rest.as_ref().ok_or(Unreachable)?, offset)),
        }
    }

    /// Reads the 16-bit word at `offset`.
    #[inline]
    pub fn load16(&self, offset: u64) -> Result<u16, Unreachable> {
        let (window, offset) = self.at(offset)?;
        window.load16(offset)
    }

    /// Reads the 16-bit word at `offset`, before anything is read or written later.
    #[inline]
    pub fn load_acquire16(&self, offset: u64) -> Result<u16, Unreachable> {
        let (window, offset) = self.at(offset)?;
        window.load_acquire16(offset)
    }

    /// Reads the 128-bit word at `offset`, each 64-bit half once.
    #[inline]
    pub fn load128(&self, offset: u64) -> Result<[u64; 2], Unreachable> {
        let (window, offset) = self.at(offset)?;
        window.load128(offset)
    }

    /// Writes the 16-bit word at `offset`.
    #[inline]
    pub fn store16(&self, offset: u64, value: u16) -> Result<(), Unreachable> {
        let (window, offset) = self.at(offset)?;
        window.store16(offset, value)
    }

    /// Writes the 16-bit word at `offset`, behind everything that was read or written before.
    #[inline]
    pub fn store_release16(&self, offset: u64, value: u16) -> Result<(), Unreachable> {
        let (window, offset) = self.at(offset)?;
        window.store_release16(offset, value)
    }

    /// Writes the 32-bit word at `offset`.
    #[inline]
    pub fn store32(&self, offset: u64, value: u32) -> Result<(), Unreachable> {
        let (window, offset) = self.at(offset)?;
        window.store32(offset, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw::{TestRam, pool_read};
    use proptest::prelude::*;

    /// A VM of three blocks, whose order in the machine is not theirs in the VM.
    fn memory() -> (TestRam, GuestMemory) {
        let ram = TestRam::new(4 * BLOCK);
        let blocks = [2, 0, 1].map(|n| ram.base() + n * BLOCK);
        (ram, GuestMemory::new(&blocks))
    }

    #[test]
    fn words_on_both_sides_of_a_blocks_end_are_found() {
        let (ram, memory) = memory();
        let area = memory.area(RAM_BASE.0 + BLOCK - 64, 128).unwrap();
        area.store16(62, 0x1234).unwrap();
        area.store32(64, 0x5678_9abc).unwrap();
        area.store_release16(126, 7).unwrap();
        assert_eq!(area.load16(62), Ok(0x1234));
        assert_eq!(area.load_acquire16(126), Ok(7));
        assert_eq!(area.load128(64).unwrap()[0], 0x5678_9abc);
        assert_eq!(area.load16(128), Err(Unreachable));
        assert_eq!(area.load128(56), Err(Unreachable), "crosses");
        assert_eq!(area.load16(61), Err(Unreachable), "not aligned");
        let mut bytes = [0; 2];
        pool_read(ram.base() + 3 * BLOCK - 2, &mut bytes).unwrap();
        assert_eq!(bytes, [0x34, 0x12]);
        pool_read(ram.base(), &mut bytes).unwrap();
        assert_eq!(bytes, [0xbc, 0x9a]);
    }

    proptest! {
        /// Segments are exactly the bytes that were asked for, in order; or what was asked for is not RAM.
        #[test]
        fn segments_are_the_bytes_of_the_range(
            ipa in prop_oneof![
                any::<u64>(),
                RAM_BASE.0 - 16..RAM_BASE.0 + 3 * BLOCK + 16,
                (1u64..4, 0u64..32).prop_map(|(n, d)| RAM_BASE.0 + n * BLOCK + d - 16),
            ],
            bytes in prop_oneof![any::<u32>(), 0u32..64, 0u32..(4 * BLOCK as u32)],
        ) {
            let (ram, memory) = memory();
            let base = ram.base();
            let to_pa = |ipa: u64| base + [2, 0, 1][((ipa - RAM_BASE.0) / BLOCK) as usize] * BLOCK + ipa % BLOCK;
            let within = bytes == 0
                || ipa >= RAM_BASE.0
                    && ipa.checked_add(bytes.into()).is_some_and(|end| end <= RAM_BASE.0 + 3 * BLOCK);
            let mut out = Vec::new();
            let result = memory.segments(ipa, bytes, &mut out, 8);
            prop_assert_eq!(result.is_ok(), within);
            if within {
                let mut at = ipa;
                for segment in &out {
                    prop_assert_eq!(segment.pa, to_pa(at));
                    let last = u64::from(segment.len) - 1;
                    prop_assert_eq!(segment.pa + last, to_pa(at + last));
                    at += u64::from(segment.len);
                }
                prop_assert_eq!(at, ipa + u64::from(bytes));
            }
        }
    }

    #[test]
    fn too_many_pieces_are_refused() {
        let (_ram, memory) = memory();
        let mut out = Vec::new();
        let all = 3 * BLOCK as u32;
        // The second and the third block adjoin in the machine.
        assert_eq!(memory.segments(RAM_BASE.0, all, &mut out, 2), Ok(()));
        assert_eq!(out.len(), 2);
        out.clear();
        assert_eq!(memory.segments(RAM_BASE.0, all, &mut out, 1), Err(Outside));
    }
}
