//! A frame on its way through a switch.

use super::NetHeader;
use crate::hw::{CopyFault, Unreachable};
use crate::segment::Segment;
use crate::virtio::transfer;
use alloc::vec::Vec;

/// Bytes of an Ethernet header: destination, source, type.
pub const HEAD: usize = 14;

/// Where a frame's bytes are.
#[derive(Clone, Copy, Debug)]
enum Bytes<'a> {
    /// In the frame pool, from this offset on: a guest's or a device's buffers.
    Pool(&'a [Segment], u64),
    /// In this program's memory.
    Own(&'a [u8]),
}

/// An Ethernet frame, without its checksum, and what is left to do with it.
///
/// Its first [`HEAD`] bytes are a copy: what the switch has decided by is what the receiver gets, whatever the sender
/// makes of its buffer meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What the sender leaves to do.
    pub header: NetHeader,
    head: [u8; HEAD],
    bytes: Bytes<'a>,
    len: usize,
}

impl<'a> Frame<'a> {
    /// A frame of `len` bytes, from `offset` on in `segments`, whose first bytes have been read as `head`.
    #[must_use]
    pub const fn in_pool(
        header: NetHeader,
        head: [u8; HEAD],
        segments: &'a [Segment],
        offset: u64,
        len: usize,
    ) -> Self {
        let bytes = Bytes::Pool(segments, offset);
        Self {
            header,
            head,
            bytes,
            len,
        }
    }

    /// A frame in this program's memory. `None` if it is too short to be one.
    #[must_use]
    pub fn own(header: NetHeader, bytes: &'a [u8]) -> Option<Self> {
        Some(Self {
            header,
            head: *bytes.first_chunk()?,
            bytes: Bytes::Own(bytes),
            len: bytes.len(),
        })
    }

    /// Bytes, at least [`HEAD`].
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The Ethernet header.
    #[must_use]
    pub const fn head(&self) -> &[u8; HEAD] {
        &self.head
    }

    /// Destination address.
    #[must_use]
    pub const fn destination(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.head;
        [a, b, c, d, e, f]
    }

    /// Source address.
    #[must_use]
    pub const fn source(&self) -> [u8; 6] {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = self.head;
        [a, b, c, d, e, f]
    }

    /// Copies `bytes` bytes from `offset` on, which is not below [`HEAD`], to `to`.
    #[inline]
    pub fn copy(
        &self,
        offset: usize,
        to: &[Segment],
        to_offset: u64,
        bytes: usize,
    ) -> Result<(), CopyFault> {
        match self.bytes {
            Bytes::Pool(segments, start) => {
                transfer::copy(to, to_offset, segments, start + offset as u64, bytes as u64)
            }
            Bytes::Own(own) => {
                let piece = own.get(offset..).and_then(|rest| rest.get(..bytes));
                transfer::write(to, to_offset, piece.ok_or(CopyFault::Source)?)
                    .map_err(|_| CopyFault::Target)
            }
        }
    }

    /// All of it, in this program's memory; `None` if there is too little of that.
    pub fn to_vec(&self) -> Result<Option<Vec<u8>>, Unreachable> {
        let mut all = Vec::new();
        if all.try_reserve_exact(self.len).is_err() {
            return Ok(None);
        }
        all.resize(self.len, 0);
        match self.bytes {
            Bytes::Pool(segments, start) => transfer::read(segments, start, &mut all)?,
            Bytes::Own(own) => all.copy_from_slice(own),
        }
        if let Some(head) = all.first_chunk_mut() {
            *head = self.head;
        }
        Ok(Some(all))
    }
}
