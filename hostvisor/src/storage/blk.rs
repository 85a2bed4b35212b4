//! virtio-blk on the wire: features, configuration, requests (virtio 1.2 §5.2).

use super::{IoError, Op};
use crate::drivers::queue::Descriptor;
use crate::drivers::setup::{self, Refused};
use crate::hw::Dma;
use crate::segment::Segment;
use crate::virtqueue::{DESCRIPTOR, NEXT, WRITE};
use virtio_drivers::transport::Transport;

/// VIRTIO_BLK_F_SEG_MAX.
const F_SEG_MAX: u64 = 1 << 2;
/// VIRTIO_BLK_F_RO.
const F_RO: u64 = 1 << 5;
/// VIRTIO_BLK_F_BLK_SIZE.
const F_BLK_SIZE: u64 = 1 << 6;
/// VIRTIO_BLK_F_FLUSH.
const F_FLUSH: u64 = 1 << 9;
/// VIRTIO_BLK_F_DISCARD.
const F_DISCARD: u64 = 1 << 13;
/// VIRTIO_BLK_F_WRITE_ZEROES.
const F_WRITE_ZEROES: u64 = 1 << 14;

/// What the driver makes use of.
pub(super) const WANTED: u64 =
    F_SEG_MAX | F_RO | F_BLK_SIZE | F_FLUSH | F_DISCARD | F_WRITE_ZEROES | setup::EVENT_IDX;

/// What a disk says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes of a logical block: requests must be whole ones.
    pub block_size: u32,
    /// It takes no writes.
    pub read_only: bool,
    /// It has a cache that Flush empties. Otherwise what is written lasts (§5.2.6.2), and Flush does nothing.
    pub flush: bool,
    /// Most segments of a request.
    pub max_segments: u16,
    /// Most sectors of a Discard; 0 if there is none.
    pub max_discard: u32,
    /// Most sectors of a WriteZeroes; 0 if there is none.
    pub max_zeroes: u32,
}

impl Geometry {
    /// Reads the configuration (§5.2.4).
    pub fn read<T: Transport>(transport: &T, features: u64) -> Result<Self, Refused> {
        let has = |feature| features & feature != 0;
        let field = |feature, offset, otherwise| {
            if has(feature) {
                setup::config32(transport, offset)
            } else {
                Ok(otherwise)
            }
        };
        let block_size = field(F_BLK_SIZE, 20, 512)?;
        if !block_size.is_power_of_two() || !(512..=64 << 10).contains(&block_size) {
            return Err(Refused::Config);
        }
        let seg_max = field(F_SEG_MAX, 12, 1)?.max(1);
        Ok(Self {
            sectors: setup::config64(transport, 0)?,
            block_size,
            read_only: has(F_RO),
            flush: has(F_FLUSH),
            max_segments: seg_max.min(SEGMENTS as u32) as u16,
            max_discard: field(F_DISCARD, 36, 0)?,
            max_zeroes: field(F_WRITE_ZEROES, 48, 0)?,
        })
    }

    /// No chain is longer than the queue (§2.7.5.3.1): header and status are two of it.
    pub fn fit(&mut self, queue_size: u16) {
        let most = queue_size.saturating_sub(2).max(1);
        self.max_segments = self.max_segments.min(most);
    }
}

/// What the device is asked for: `virtio_blk_req.type` (§5.2.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A request of ours.
    Op(Op),
    /// VIRTIO_BLK_T_GET_ID: the serial, 20 bytes.
    Identify,
}

impl Kind {
    const fn code(self) -> u32 {
        match self {
            Self::Op(Op::Read) => 0,
            Self::Op(Op::Write) => 1,
            Self::Op(Op::Flush) => 4,
            Self::Identify => 8,
            Self::Op(Op::Discard) => 11,
            Self::Op(Op::WriteZeroes) => 13,
        }
    }

    /// The device writes the data.
    const fn is_read(self) -> bool {
        matches!(self, Self::Op(Op::Read) | Self::Identify)
    }
}

/// Bytes of a [`SlotPage`].
pub(super) const SLOT: u64 = 4096;
const HEADER: u64 = 4032;
const STATUS: u64 = 4048;
const RANGE: u64 = 4064;
/// Segments that there is room for: header and status have a descriptor each.
const SEGMENTS: u64 = HEADER / DESCRIPTOR - 2;

/// The page of one request under way: its indirect table, and behind that header, status, and the range of a
/// Discard.
#[derive(Clone, Copy)]
pub(super) struct SlotPage<'a> {
    memory: &'a Dma,
    base: u64,
}

impl<'a> SlotPage<'a> {
    /// Page `slot` of `memory`.
    #[inline]
    pub(super) const fn new(memory: &'a Dma, slot: u16) -> Self {
        let base = slot as u64 * SLOT;
        Self { memory, base }
    }

    /// Where the table is.
    pub(super) fn table(self) -> u64 {
        self.memory.address() + self.base
    }

    /// Writes a request of at most [`SEGMENTS`] segments; answers the bytes of its table.
    #[inline]
    pub(super) fn write(self, kind: Kind, sector: u64, sectors: u32, segments: &[Segment]) -> u32 {
        let Self { memory, base } = self;
        let address = memory.address() + base;
        memory.write64(base + HEADER, u64::from(kind.code()));
        memory.write64(base + HEADER + 8, 0);
        let mut count = 0_u16;
        let mut push = |address, len, flags| {
            let next = if flags & NEXT == 0 { 0 } else { count + 1 };
            let descriptor = Descriptor {
                address,
                len,
                flags,
                next,
            };
            descriptor.write(memory, base + u64::from(count) * DESCRIPTOR);
            count += 1;
        };
        push(address + HEADER, 16, NEXT);
        match kind {
            Kind::Op(Op::Discard | Op::WriteZeroes) => {
                memory.write64(base + RANGE, sector);
                memory.write64(base + RANGE + 8, u64::from(sectors));
                push(address + RANGE, 16, NEXT);
            }
            Kind::Op(Op::Flush) => {}
            Kind::Op(Op::Read | Op::Write) | Kind::Identify => {
                memory.write64(base + HEADER + 8, sector);
                let flags = if kind.is_read() { NEXT | WRITE } else { NEXT };
                for segment in segments.iter().take(SEGMENTS as usize) {
                    push(segment.pa, segment.len, flags);
                }
            }
        }
        push(address + STATUS, 1, WRITE);
        memory.write8(base + STATUS, u8::MAX);
        u32::from(count) * DESCRIPTOR as u32
    }

    /// The outcome (§5.2.6: VIRTIO_BLK_S_*).
    #[inline]
    pub(super) fn status(self) -> Result<(), IoError> {
        match self.memory.read8(self.base + STATUS) {
            0 => Ok(()),
            2 => Err(IoError::Unsupported),
            _ => Err(IoError::Device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// (address, len, flags) of the chain in a table, followed as a device does.
    fn chain(memory: &Dma, bytes: u32) -> Vec<(u64, u32, u16)> {
        let mut at = 0;
        let mut all = Vec::new();
        loop {
            let offset = SLOT + at * DESCRIPTOR;
            let rest = memory.read64(offset + 8);
            let (len, flags, next) = (rest as u32, (rest >> 32) as u16, rest >> 48);
            all.push((memory.read64(offset), len, flags));
            assert!(next * DESCRIPTOR < u64::from(bytes));
            if flags & NEXT == 0 {
                assert_eq!(all.len() as u64 * DESCRIPTOR, u64::from(bytes));
                return all;
            }
            at = next;
        }
    }

    #[test]
    fn no_chain_is_longer_than_the_queue() {
        for (queue, most) in [(128, 126), (256, 250), (2, 1)] {
            let mut geometry = Geometry {
                sectors: 8,
                block_size: 512,
                read_only: false,
                flush: false,
                max_segments: 250,
                max_discard: 0,
                max_zeroes: 0,
            };
            geometry.fit(queue);
            assert_eq!(geometry.max_segments, most);
        }
    }

    #[test]
    fn a_read_is_header_segments_status() {
        let memory = Dma::new(0x10_0000, 2 * SLOT).unwrap();
        let page = SlotPage::new(&memory, 1);
        let segments = [
            Segment {
                pa: 0x5000,
                len: 512,
            },
            Segment {
                pa: 0x9000,
                len: 1024,
            },
        ];
        let bytes = page.write(Kind::Op(Op::Read), 77, 0, &segments);
        assert_eq!(
            chain(&memory, bytes),
            [
                (0x10_1000 + HEADER, 16, NEXT),
                (0x5000, 512, NEXT | WRITE),
                (0x9000, 1024, NEXT | WRITE),
                (0x10_1000 + STATUS, 1, WRITE),
            ]
        );
        assert_eq!(memory.read32(SLOT + HEADER), 0);
        assert_eq!(memory.read64(SLOT + HEADER + 8), 77);
        assert_eq!(page.status(), Err(IoError::Device));
        memory.write8(SLOT + STATUS, 0);
        assert_eq!(page.status(), Ok(()));
    }

    #[test]
    fn most_segments_fill_the_table_and_no_more() {
        let memory = Dma::new(0x10_0000, 2 * SLOT).unwrap();
        let page = SlotPage::new(&memory, 1);
        let segments = [Segment {
            pa: 0x5000,
            len: 512,
        }; SEGMENTS as usize + 9];
        let bytes = page.write(Kind::Op(Op::Write), 1, 0, &segments);
        assert_eq!(chain(&memory, bytes).len() as u64, SEGMENTS + 2);
        assert_eq!(u64::from(bytes), HEADER);
        assert_eq!(memory.read32(SLOT + HEADER), 1);
    }

    #[test]
    fn a_discard_names_its_range_in_memory() {
        let memory = Dma::new(0x10_0000, 2 * SLOT).unwrap();
        let bytes = SlotPage::new(&memory, 1).write(Kind::Op(Op::Discard), 77, 5, &[]);
        assert_eq!(chain(&memory, bytes)[1], (0x10_1000 + RANGE, 16, NEXT));
        assert_eq!(memory.read64(SLOT + RANGE), 77);
        assert_eq!(memory.read64(SLOT + RANGE + 8), 5);
        assert_eq!(memory.read64(SLOT + HEADER + 8), 0);
        let bytes = SlotPage::new(&memory, 1).write(Kind::Op(Op::Flush), 0, 0, &[]);
        assert_eq!(chain(&memory, bytes).len(), 2);
    }
}
