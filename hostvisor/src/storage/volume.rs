//! A whole disk, or one of its partitions: what a VM is given.

use super::{Backend, Geometry, IoError, MachineDisk, Op, Request, SECTOR};
use crate::segment;
use alloc::sync::Arc;

/// Sectors of a disk, as a disk of their own.
#[derive(Clone)]
pub struct Volume {
    disk: Arc<MachineDisk>,
    first: u64,
    sectors: u64,
}

impl Volume {
    /// The `sectors` from `first` on. `None` if the disk has not so many.
    #[must_use]
    pub fn new(disk: Arc<MachineDisk>, first: u64, sectors: u64) -> Option<Self> {
        let end = first.checked_add(sectors)?;
        (end <= disk.geometry().sectors).then_some(Self {
            disk,
            first,
            sectors,
        })
    }

    /// All of a disk.
    #[must_use]
    pub fn whole(disk: Arc<MachineDisk>) -> Self {
        let sectors = disk.geometry().sectors;
        Self {
            disk,
            first: 0,
            sectors,
        }
    }

    /// The disk it lies on.
    #[must_use]
    pub const fn disk(&self) -> &Arc<MachineDisk> {
        &self.disk
    }

    /// Sectors of 512 bytes.
    #[must_use]
    pub const fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Its first sector on the disk.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// True if the two share a sector.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.disk, &other.disk)
            && self.first < other.first + other.sectors
            && other.first < self.first + self.sectors
    }
}

impl Backend for Volume {
    /// The disk's abilities, and the volume's size.
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.sectors,
            ..*self.disk.geometry()
        }
    }

    /// Hands over a request whose sectors count from the volume's first.
    fn submit(&self, mut request: Request) {
        let sectors = match request.op {
            Op::Flush => 0,
            Op::Read | Op::Write => segment::total(&request.segments).div_ceil(SECTOR),
            Op::Discard | Op::WriteZeroes => u64::from(request.sectors),
        };
        let within = request
            .sector
            .checked_add(sectors)
            .is_some_and(|end| end <= self.sectors);
        if !within {
            request.done.done(request.token, Err(IoError::BadRequest));
            return;
        }
        // No overflow: the volume lies on the disk.
        request.sector += self.first;
        self.disk.submit(request);
    }
}
