//! Where a VM's files go in its memory, and what that memory holds before its first instruction.
//!
//! The planning itself is in the `bundle` crate, as the `cloister` tool asks it too. Pure: copying is
//! up to the caller.

use abi::Ipa;
pub use bundle::layout::{Error, FDT_MAX, Layout, RAM_BASE, Region, plan};

/// A file's place in a VM's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece<'a> {
    /// Where its first byte goes.
    pub ipa: Ipa,
    /// Its contents.
    pub bytes: &'a [u8],
}

/// What a VM's memory holds at start: kernel, device tree, initrd; zeros everywhere else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contents<'a> {
    pieces: [Piece<'a>; 3],
}

impl<'a> Contents<'a> {
    /// The files in their places. What is longer than its place is cut at its end, so that nothing
    /// overlaps whatever is passed.
    #[must_use]
    pub fn new(layout: &Layout, kernel: &'a [u8], fdt: &'a [u8], initrd: &'a [u8]) -> Self {
        let piece = |region: Region, bytes: &'a [u8]| {
            let size = usize::try_from(region.size).unwrap_or(usize::MAX);
            Piece {
                ipa: region.base,
                bytes: bytes.get(..size).unwrap_or(bytes),
            }
        };
        let none = Region {
            base: layout.fdt.end(),
            size: 0,
        };
        Self {
            pieces: [
                piece(layout.kernel, kernel),
                piece(layout.fdt, fdt),
                piece(layout.initrd.unwrap_or(none), initrd),
            ],
        }
    }

    /// The files, by ascending address; they do not overlap. A file that there is none of is empty.
    #[must_use]
    pub const fn pieces(&self) -> &[Piece<'a>; 3] {
        &self.pieces
    }

    /// Fills `chunk` with what the memory holds from `ipa` on.
    pub fn fill(&self, ipa: Ipa, chunk: &mut [u8]) {
        chunk.fill(0);
        for piece in &self.pieces {
            let (skip_chunk, skip_piece) = match piece.ipa.0.checked_sub(ipa.0) {
                Some(ahead) => (ahead, 0),
                None => (0, ipa.0.saturating_sub(piece.ipa.0)),
            };
            let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            let to = chunk.get_mut(index(skip_chunk)..).unwrap_or_default();
            let from = piece.bytes.get(index(skip_piece)..).unwrap_or_default();
            let len = to.len().min(from.len());
            if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
                to.copy_from_slice(from);
            }
        }
    }

    /// True if the `len` bytes from `ipa` on belong to no file: all zeros.
    #[must_use]
    pub fn is_blank(&self, ipa: Ipa, len: u64) -> bool {
        let end = ipa.0.saturating_add(len);
        self.pieces.iter().all(|piece| {
            let piece_end = piece.ipa.0.saturating_add(piece.bytes.len() as u64);
            piece.bytes.is_empty() || piece_end <= ipa.0 || end <= piece.ipa.0 || len == 0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const SLOT: u64 = 100;

    fn layout(kernel: u64, initrd: u64) -> Layout {
        let region = |at: u64, size| Region {
            base: Ipa(1000 + at),
            size,
        };
        Layout {
            ram: region(0, 1000),
            kernel: region(50, kernel),
            fdt: region(50 + kernel, SLOT),
            initrd: Some(region(150 + kernel, initrd)).filter(|r| r.size != 0),
            entry: Ipa(1050),
        }
    }

    proptest! {
        #[test]
        fn chunks_of_any_size_hold_each_file_in_its_place_and_zeros_elsewhere(
            kernel in prop::collection::vec(1_u8.., 0..150),
            fdt in prop::collection::vec(1_u8.., 0..150),
            initrd in prop::collection::vec(1_u8.., 0..150),
            slack in 0_u64..50,
            chunk in 1_usize..300,
        ) {
            let layout = layout(kernel.len() as u64 + slack, initrd.len() as u64);
            let contents = Contents::new(&layout, &kernel, &fdt, &initrd);

            let mut memory = vec![0; 1000];
            let mut put = |at: u64, bytes: &[u8]| {
                let at = at as usize - 1000;
                memory[at..at + bytes.len()].copy_from_slice(bytes);
            };
            put(layout.kernel.base.0, &kernel);
            put(layout.fdt.base.0, &fdt[..fdt.len().min(SLOT as usize)]);
            if let Some(place) = layout.initrd {
                put(place.base.0, &initrd);
            }

            let mut filled = Vec::new();
            while filled.len() < memory.len() {
                let ipa = Ipa(1000 + filled.len() as u64);
                let mut bytes = vec![0xff; chunk];
                contents.fill(ipa, &mut bytes);
                prop_assert_eq!(contents.is_blank(ipa, chunk as u64), bytes.iter().all(|&b| b == 0));
                filled.extend(bytes);
            }
            filled.truncate(memory.len());
            prop_assert_eq!(filled, memory);
        }

        #[test]
        fn any_address_is_answered(ipa: u64, len: u64) {
            let contents = Contents::new(&layout(9, 9), &[1; 9], &[1; 9], &[1; 9]);
            let _ = contents.is_blank(Ipa(ipa), len);
            contents.fill(Ipa(ipa), &mut [0; 64]);
        }
    }
}
