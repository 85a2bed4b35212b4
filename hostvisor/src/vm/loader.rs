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

    /// What of the files lies in the `len` bytes from `ipa` on: how far from `ipa`, and the bytes. Zeros are
    /// everywhere else.
    pub fn parts(&self, ipa: Ipa, len: u64) -> impl Iterator<Item = (u64, &'a [u8])> {
        self.pieces.iter().filter_map(move |piece| {
            let (offset, skipped) = match piece.ipa.0.checked_sub(ipa.0) {
                Some(ahead) => (ahead, 0),
                None => (0, ipa.0.saturating_sub(piece.ipa.0)),
            };
            let room = usize::try_from(len.checked_sub(offset)?).unwrap_or(usize::MAX);
            let bytes = piece.bytes.get(usize::try_from(skipped).ok()?..)?;
            let bytes = bytes.get(..room).unwrap_or(bytes);
            (!bytes.is_empty()).then_some((offset, bytes))
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
                let mut bytes = vec![0; chunk];
                for (offset, part) in contents.parts(ipa, chunk as u64) {
                    let offset = offset as usize;
                    // Beyond the chunk this panics.
                    bytes[offset..offset + part.len()].copy_from_slice(part);
                }
                filled.extend(bytes);
            }
            filled.truncate(memory.len());
            prop_assert_eq!(filled, memory);
        }

        #[test]
        fn any_address_is_answered(ipa: u64, len: u64) {
            let contents = Contents::new(&layout(9, 9), &[1; 9], &[1; 9], &[1; 9]);
            for (offset, part) in contents.parts(Ipa(ipa), len) {
                prop_assert!(offset + part.len() as u64 <= len);
            }
        }
    }
}
