//! Block storage: what a request is, and who serves it.
//!
//! A request names sectors of 512 bytes and segments of the frame pool; it is handed over, never waited for,
//! and comes back once through [`Done`], with its outcome. Data is never copied on the way.

mod blk;
pub mod check;
mod claims;
mod disk;
pub mod gpt;
pub mod machine;
mod turns;
mod volume;

use crate::segment::Segment;
use alloc::sync::Arc;
use alloc::vec::Vec;
pub use blk::Geometry;
pub use claims::{Claim, ClaimError, claim};
use crc::{CRC_32_ISO_HDLC, Crc};
pub use disk::{Counters, MachineDisk};
pub use machine::{OpenError, disks, open};
pub use volume::Volume;

/// Bytes of a sector: the unit of all sector numbers, whatever the disk's own blocks are (virtio 1.2 §5.2.4).
pub const SECTOR: u64 = 512;

/// CRC-32 as in GUID partition tables (UEFI 2.10 §5.3.2), IEEE 802.3 and zip: what Python's `zlib.crc32` computes.
static CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Disk to segments.
    Read,
    /// Segments to disk.
    Write,
    /// What has been written is made to last.
    Flush,
    /// The sectors' contents are not needed any more.
    Discard,
    /// The sectors become zero.
    WriteZeroes,
}

/// One request.
pub struct Request {
    /// What to do.
    pub op: Op,
    /// First sector. 0 for Flush.
    pub sector: u64,
    /// Sectors to discard or to zero; for Read and Write the segments say how many.
    pub sectors: u32,
    /// Where the data is or goes; together a whole number of sectors. Empty for Flush, Discard and WriteZeroes.
    pub segments: Vec<Segment>,
    /// Who hears of the outcome.
    pub done: Arc<dyn Done>,
    /// What `done` is told besides: the requester's own name for the request.
    pub token: u64,
}

/// Hears of outcomes.
pub trait Done: Send + Sync {
    /// The request that was given `token` is over: the device will not touch its segments any more, unless the
    /// outcome is [`IoError::Lost`].
    ///
    /// Called exactly once for a request, with no lock held, on any CPU, possibly before the call that handed
    /// the request over has returned.
    fn done(&self, token: u64, result: Result<(), IoError>);
}

/// What requests are handed to.
pub trait Backend: Send + Sync {
    /// Size and abilities.
    fn geometry(&self) -> Geometry;

    /// Hands a request over. Never waits, never fails: its outcome comes through [`Request::done`].
    fn submit(&self, request: Request);
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoError {
    /// Beyond the end, not whole sectors, or a write to what is read-only: the requester's fault.
    BadRequest,
    /// The device cannot do this (discard, write zeroes).
    Unsupported,
    /// The device says that it failed.
    Device,
    /// No memory is left for the request to wait in.
    NoMemory,
    /// The device has stopped answering, or makes no sense; it is not used any more.
    Dead,
    /// As [`Self::Dead`], and it may touch the request's segments for ever: it does not even reset.
    Lost,
}

impl core::fmt::Display for IoError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::BadRequest => "not a request for this disk",
            Self::Unsupported => "the disk cannot do that",
            Self::Device => "the disk reports an error",
            Self::NoMemory => "no memory is left for the request",
            Self::Dead => "the disk does not answer",
            Self::Lost => "the disk does not answer, and may still reach memory",
        })
    }
}
