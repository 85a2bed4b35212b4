//! A small virtio-blk driver (virtio 1.2 §5.2), which can be told to ask for what makes no sense.

use crate::verdict::{Problem, check};
use crate::virtio::{self, Descriptor, Device, F_INDIRECT, Queue};

const BLOCK: u32 = 2;
/// Pages of the arena.
const RINGS: usize = 0;
/// Headers and statuses.
pub(crate) const FRAMING: usize = 1;
pub(crate) const DATA: usize = 2;
/// Requests that may be under way at once: each has a page of data.
pub(crate) const REQUESTS: u16 = 8;

/// `virtio_blk_req.type` (§5.2.6).
pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const GET_ID: u32 = 8;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const WRITE_ZEROES: u32 = 13;
const F_FLUSH: u64 = 1 << 9;
pub(crate) const F_DISCARD: u64 = 1 << 13;
pub(crate) const F_WRITE_ZEROES: u64 = 1 << 14;

/// `virtio_blk_req.status`.
pub(crate) const GOOD: u8 = 0;
pub(crate) const FAILED: u8 = 1;
pub(crate) const UNSUPPORTED: u8 = 2;

/// The VM's first disk.
pub(crate) fn disk() -> Result<Device, Problem> {
    virtio::find(BLOCK, 0).ok_or(Problem::Skip("no disk"))
}

/// A driver with `REQUESTS` chains of three descriptors.
pub(crate) struct Driver {
    pub(crate) device: Device,
    pub(crate) queue: Queue,
}

impl Driver {
    pub(crate) fn start(device: Device) -> Result<Self, Problem> {
        check!(
            device.negotiate(F_FLUSH | F_INDIRECT | F_DISCARD | F_WRITE_ZEROES),
            "features are refused"
        );
        let queue = Queue::new(RINGS, 32);
        device.place(0, &queue);
        device.ready();
        check!(!device.is_broken(), "the device breaks at DRIVER_OK");
        Ok(Self { device, queue })
    }

    /// Where request `index` has its header, its status and its page of data.
    pub(crate) fn header(index: u16) -> u64 {
        virtio::page(FRAMING) + 32 * u64::from(index)
    }

    pub(crate) fn status(index: u16) -> u64 {
        Self::header(index) + 16
    }

    pub(crate) fn data(index: u16) -> u64 {
        virtio::page(DATA + usize::from(index))
    }

    /// Makes request `index` available, with its page of data.
    pub(crate) fn offer(&mut self, index: u16, kind: u32, sector: u64, bytes: u32) {
        self.offer_at(index, kind, sector, Self::data(index), bytes);
    }

    /// The same, with data at `data`.
    pub(crate) fn offer_at(&mut self, index: u16, kind: u32, sector: u64, data: u64, bytes: u32) {
        virtio::store(Self::header(index), u64::from(kind));
        virtio::store(Self::header(index) + 8, sector);
        virtio::store(Self::status(index), 0xee_u8);
        let first = 3 * index;
        let writes = u16::from(!matches!(kind, OUT | DISCARD | WRITE_ZEROES)) * 2;
        let status = Descriptor {
            address: Self::status(index),
            len: 1,
            flags: 2,
            next: 0,
        };
        let behind = if bytes == 0 { first + 2 } else { first + 1 };
        for (n, address, len, flags, next) in [
            (first, Self::header(index), 16, 1, behind),
            (first + 1, data, bytes, 1 | writes, first + 2),
        ] {
            let descriptor = Descriptor {
                address,
                len,
                flags,
                next,
            };
            self.queue.describe(n, &descriptor);
        }
        self.queue.describe(first + 2, &status);
        self.queue.offer(first);
    }

    /// A discard or write-zeroes of one range (§5.2.6, `virtio_blk_discard_write_zeroes`): its status.
    pub(crate) fn range(
        &mut self,
        kind: u32,
        sector: u64,
        sectors: u32,
        flags: u32,
    ) -> Result<u8, Problem> {
        virtio::store(Self::data(0), sector);
        virtio::store(Self::data(0) + 8, sectors);
        virtio::store(Self::data(0) + 12, flags);
        self.request(kind, 0, 16)
    }

    /// One request, from its beginning to its end: its status.
    pub(crate) fn request(&mut self, kind: u32, sector: u64, bytes: u32) -> Result<u8, Problem> {
        self.offer(0, kind, sector, bytes);
        self.device.notify(0);
        let back = self.queue.wait();
        check!(
            back.is_some_and(|(head, _)| head == 0),
            "nothing comes back"
        );
        Ok(virtio::load(Self::status(0)))
    }
}
