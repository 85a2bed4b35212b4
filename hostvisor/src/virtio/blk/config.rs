//! What a disk offers its driver: features and configuration space (virtio 1.2 §5.2.3, §5.2.4).

use crate::storage::{Geometry, SECTOR};
use crate::virtio::device::CONFIG;

/// VIRTIO_BLK_F_SIZE_MAX.
const F_SIZE_MAX: u64 = 1 << 1;
/// VIRTIO_BLK_F_SEG_MAX.
const F_SEG_MAX: u64 = 1 << 2;
/// VIRTIO_BLK_F_RO.
const F_RO: u64 = 1 << 5;
/// VIRTIO_BLK_F_BLK_SIZE.
const F_BLK_SIZE: u64 = 1 << 6;
/// VIRTIO_BLK_F_FLUSH.
pub(super) const F_FLUSH: u64 = 1 << 9;
/// VIRTIO_BLK_F_DISCARD.
const F_DISCARD: u64 = 1 << 13;
/// VIRTIO_BLK_F_WRITE_ZEROES.
const F_WRITE_ZEROES: u64 = 1 << 14;

/// Requests that a driver can have out.
pub(super) const QUEUE_SIZE: u16 = 128;
/// Most bytes of one segment. Whatever the guest's memory is made of, such a segment lies in two 2 MiB blocks at
/// most; and no request takes the machine's disk long.
const SIZE_MAX: u32 = 128 << 10;
/// Most sectors that are zeroed at a time: 32 MiB. A disk that has to write them is not to be taken for a dead one.
const ZEROES_MAX: u32 = 64 << 10;
/// Header and status have a descriptor each.
const FRAMING: u16 = 2;

/// A disk as its driver sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    /// What is behind it.
    geometry: Geometry,
    read_only: bool,
}

impl Offer {
    /// Of what is behind the disk; `read_only`: this VM may not write.
    pub(super) const fn new(geometry: Geometry, read_only: bool) -> Self {
        Self {
            read_only: read_only || geometry.read_only,
            geometry,
        }
    }

    /// Most segments of a request's data, as the driver counts them: each may become two.
    const fn seg_max(&self) -> u32 {
        let half = self.geometry.max_segments / 2;
        let room = QUEUE_SIZE - FRAMING;
        let segments = if half < room { half } else { room };
        if segments == 0 { 1 } else { segments as u32 }
    }

    /// Most segments of a request's data, as the machine's disk counts them.
    pub(super) fn max_segments(&self) -> usize {
        self.geometry.max_segments.into()
    }

    /// Most bytes of a request's data.
    pub(super) fn max_bytes(&self) -> u64 {
        u64::from(self.seg_max()) * u64::from(SIZE_MAX)
    }

    /// Most sectors of a range to discard.
    pub(super) const fn max_discard(&self) -> u32 {
        self.geometry.max_discard
    }

    /// Most sectors of a range to zero.
    pub(super) fn max_zeroes(&self) -> u32 {
        self.geometry.max_zeroes.min(ZEROES_MAX)
    }

    /// Writes are refused.
    pub(super) const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// There is a cache, which a flush empties.
    pub(super) const fn has_cache(&self) -> bool {
        self.geometry.flush && !self.read_only
    }

    /// Device-specific features.
    pub(super) fn features(&self) -> u64 {
        let writable = |can, feature| if can && !self.read_only { feature } else { 0 };
        let fixed = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE;
        fixed
            | if self.read_only { F_RO } else { 0 }
            | writable(self.geometry.flush, F_FLUSH)
            | writable(self.geometry.max_discard != 0, F_DISCARD)
            | writable(self.geometry.max_zeroes != 0, F_WRITE_ZEROES)
    }

    /// `struct virtio_blk_config`, as far as the features make it valid.
    pub(super) fn configuration(&self) -> [u8; CONFIG] {
        let mut bytes = [0; CONFIG];
        let geometry = &self.geometry;
        put(&mut bytes, 0, &geometry.sectors.to_le_bytes());
        put(&mut bytes, 8, &SIZE_MAX.to_le_bytes());
        put(&mut bytes, 12, &self.seg_max().to_le_bytes());
        put(&mut bytes, 20, &geometry.block_size.to_le_bytes());
        // Of one range at a time, so that a request stays one request.
        put(&mut bytes, 36, &self.max_discard().to_le_bytes());
        put(&mut bytes, 40, &1_u32.to_le_bytes());
        let alignment = geometry.block_size / SECTOR as u32;
        put(&mut bytes, 44, &alignment.to_le_bytes());
        put(&mut bytes, 48, &self.max_zeroes().to_le_bytes());
        put(&mut bytes, 52, &1_u32.to_le_bytes());
        bytes
    }
}

fn put(bytes: &mut [u8; CONFIG], offset: usize, field: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(offset).zip(field) {
        *to = *from;
    }
}
