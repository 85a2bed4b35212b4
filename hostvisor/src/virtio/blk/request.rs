//! A request, from the chain of buffers that a driver has written (virtio 1.2 §5.2.6).
//!
//! Framing is the driver's choice (§2.7.4): the first 16 bytes that it wrote are the header, the last byte that the
//! device may write is the status, whatever descriptors they lie in.

use super::config::Offer;
use crate::segment::{self, Segment};
use crate::storage::{Op, SECTOR};
use crate::virtio::queue::{Chain, Violation};
use crate::virtio::transfer;
use alloc::vec::Vec;

/// Bytes of `struct virtio_blk_req` before the data.
const HEADER: u64 = 16;
/// Bytes of `struct virtio_blk_discard_write_zeroes`.
const RANGE: usize = 16;
/// Bytes of a page: what a protected VM shares one at a time.
const PAGE: u64 = abi::PAGE_SIZE;

/// VIRTIO_BLK_T_*.
mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// `flags.unmap` of a range: it may be deallocated.
const UNMAP: u32 = 1;

/// A request's outcome, as the driver reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    /// VIRTIO_BLK_S_OK
    Good = 0,
    /// VIRTIO_BLK_S_IOERR
    Failed = 1,
    /// VIRTIO_BLK_S_UNSUPP
    Unsupported = 2,
}

/// What is to be done about a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Something for the machine's disk.
    Submit {
        op: Op,
        sector: u64,
        sectors: u32,
        segments: Vec<Segment>,
    },
    /// The serial, at the beginning of what the device may write.
    Identify,
    /// An answer right away.
    Answer(Status),
}

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parsed {
    pub(super) action: Action,
    /// Where the status goes.
    pub(super) status: Segment,
    /// Bytes of data that the device may write.
    pub(super) room: u64,
}

/// Reads the request. `shared_only`: the VM's memory can be reached only where the VM shares it.
///
/// A chain in which no status can be found or no header is a violation; anything else that makes no sense gets a
/// status.
pub(super) fn parse(chain: &Chain, offer: &Offer, shared_only: bool) -> Result<Parsed, Violation> {
    let Some(status) = chain.writable.last().filter(|last| last.len != 0) else {
        return Err(Violation::Request("no room for a request's status"));
    };
    let status = Segment {
        pa: status.pa + u64::from(status.len) - 1,
        len: 1,
    };
    let Some(given) = segment::total(&chain.readable).checked_sub(HEADER) else {
        return Err(Violation::Request("a request without header"));
    };
    let room = segment::total(&chain.writable) - 1;
    let mut header = [0; HEADER as usize];
    transfer::read(&chain.readable, 0, &mut header)?;
    let header = u128::from_le_bytes(header);
    let (code, sector) = (header as u32, (header >> 64) as u64);

    let action = match code {
        kind::IN => data(Op::Read, sector, &chain.writable, 0, room, offer),
        kind::OUT if offer.is_read_only() => Action::Answer(Status::Failed),
        kind::OUT => data(Op::Write, sector, &chain.readable, HEADER, given, offer),
        kind::FLUSH => Action::Submit {
            op: Op::Flush,
            sector: 0,
            sectors: 0,
            segments: Vec::new(),
        },
        kind::GET_ID => Action::Identify,
        kind::DISCARD => range(Op::Discard, chain, given, offer)?,
        kind::WRITE_ZEROES => range(Op::WriteZeroes, chain, given, offer)?,
        _ => Action::Answer(Status::Unsupported),
    };
    if let Action::Submit { segments, .. } = &action
        && shared_only
    {
        touch(segments)?;
    }
    Ok(Parsed {
        action,
        status,
        room,
    })
}

/// A read or a write of `bytes` bytes, which begin `offset` bytes into `list`.
fn data(op: Op, sector: u64, list: &[Segment], offset: u64, bytes: u64, offer: &Offer) -> Action {
    let whole = bytes != 0 && bytes.is_multiple_of(SECTOR);
    if !whole || bytes > offer.max_bytes() {
        return Action::Answer(Status::Failed);
    }
    let segments = cut(list, offset, bytes);
    if segments.len() > offer.max_segments() {
        return Action::Answer(Status::Failed);
    }
    Action::Submit {
        op,
        sector,
        sectors: 0,
        segments,
    }
}

/// A discard or write-zeroes of the one range that is offered.
fn range(op: Op, chain: &Chain, given: u64, offer: &Offer) -> Result<Action, Violation> {
    if offer.is_read_only() || given != RANGE as u64 {
        return Ok(Action::Answer(Status::Failed));
    }
    let mut bytes = [0; RANGE];
    transfer::read(&chain.readable, HEADER, &mut bytes)?;
    let range = u128::from_le_bytes(bytes);
    let (sector, sectors, flags) = (range as u64, (range >> 64) as u32, (range >> 96) as u32);
    // §5.2.6.2: reserved bits, and unmap in a discard, are not supported. That zeroed sectors may be unmapped
    // obliges to nothing.
    let (allowed, most) = match op {
        Op::WriteZeroes => (UNMAP, offer.max_zeroes()),
        _ => (0, offer.max_discard()),
    };
    if flags & !allowed != 0 || most == 0 {
        return Ok(Action::Answer(Status::Unsupported));
    }
    if sectors > most {
        return Ok(Action::Answer(Status::Failed));
    }
    Ok(Action::Submit {
        op,
        sector,
        sectors,
        segments: Vec::new(),
    })
}

/// The `bytes` bytes of `list` that begin `offset` bytes into it, of which there are enough.
fn cut(list: &[Segment], mut offset: u64, mut bytes: u64) -> Vec<Segment> {
    let mut pieces = Vec::with_capacity(list.len());
    for segment in list {
        let len = u64::from(segment.len);
        let skipped = offset.min(len);
        offset -= skipped;
        let taken = (len - skipped).min(bytes);
        bytes -= taken;
        if taken != 0 {
            pieces.push(Segment {
                pa: segment.pa + skipped,
                len: taken as u32,
            });
        }
    }
    pieces
}

/// Looks whether the VM shares every page of `list`: a device of the machine would not ask.
///
/// A guest that takes a page back while a request is under way gets what it asked for: the device reads or writes
/// the guest's own page. The frame stays the guest's until its VM is taken apart, which waits for all requests.
fn touch(list: &[Segment]) -> Result<(), Violation> {
    for segment in list {
        let end = segment.pa + u64::from(segment.len);
        let mut at = segment.pa;
        while at < end {
            crate::hw::pool_read(at, &mut [0])?;
            at = (at & !(PAGE - 1)) + PAGE;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A cut has exactly the bytes asked for, in order.
        #[test]
        fn a_cut_is_a_slice(lengths in proptest::collection::vec(1u32..40, 1..8), from in 0u64..300, bytes in 0u64..300) {
            let mut pa = 0x1000;
            let list: Vec<_> = lengths
                .iter()
                .map(|&len| {
                    let segment = Segment { pa, len };
                    pa += u64::from(len) + 7;
                    segment
                })
                .collect();
            let flat = |list: &[Segment]| -> Vec<u64> {
                list.iter().flat_map(|s| s.pa..s.pa + u64::from(s.len)).collect()
            };
            let total = segment::total(&list);
            let from = from.min(total);
            let bytes = bytes.min(total - from);
            let pieces = cut(&list, from, bytes);
            prop_assert_eq!(&flat(&pieces)[..], &flat(&list)[from as usize..][..bytes as usize]);
            prop_assert!(pieces.iter().all(|piece| piece.len != 0));
        }
    }
}
