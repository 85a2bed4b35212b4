//! The card's receive queue: buffers of one size, each a descriptor's for ever.

use crate::drivers::Queue;
use crate::drivers::queue::{Broken, Descriptor, Used};
use crate::hw;
use crate::net::frame::HEAD;
use crate::net::header::{LEN, NetHeader};
use crate::segment::Segment;
use crate::virtqueue::WRITE;
use alloc::vec;
use alloc::vec::Vec;

/// Bytes of a buffer: an Ethernet frame and its header fit into one; larger frames are spread over several
/// (VIRTIO_NET_F_MRG_RXBUF, virtio 1.2 §5.1.6.3.1).
pub(super) const BUFFER: u32 = 2048;

/// The first bytes of a frame: what is left to do with it, and its Ethernet header.
pub(super) type Start = [u8; LEN + HEAD];

/// The queue, and the frame at hand.
pub(super) struct Receiver {
    queue: Queue,
    /// Address of the first buffer.
    buffers: u64,
    /// Which buffers the card has.
    given: Vec<bool>,
    /// What of which buffers the frame at hand is in, its header included.
    frame: Vec<Segment>,
}

impl Receiver {
    /// `buffers` is the address of as many buffers as the queue has descriptors. The card is given them by
    /// [`Self::start`].
    pub(super) fn new(queue: Queue, buffers: u64) -> Self {
        let receiver = Self {
            buffers,
            given: vec![false; usize::from(queue.size())],
            frame: Vec::with_capacity(usize::from(queue.size())),
            queue,
        };
        for index in 0..receiver.queue.size() {
            let buffer = Descriptor {
                address: receiver.address(index),
                len: BUFFER,
                flags: WRITE,
                next: 0,
            };
            receiver.queue.describe(index, buffer);
        }
        receiver
    }

    const fn address(&self, index: u16) -> u64 {
        self.buffers + index as u64 * BUFFER as u64
    }

    /// Gives the card all buffers. True if it is to be notified.
    pub(super) fn start(&mut self) -> bool {
        for index in 0..self.queue.size() {
            self.give(index);
        }
        self.queue.publish()
    }

    fn give(&mut self, index: u16) {
        if let Some(given) = self.given.get_mut(usize::from(index)) {
            *given = true;
            self.queue.offer(index);
        }
    }

    /// Takes the next frame: its first bytes, read once, which are as good as the card, and with [`Self::frame`] where
    /// it lies. `None` if there is none now.
    ///
    /// All buffers of a frame are shown by the card at once (§5.1.6.4.1).
    pub(super) fn take(&mut self) -> Result<Option<Start>, Broken> {
        let Some(first) = self.queue.take_used()? else {
            return Ok(None);
        };
        let first = self.keep(first)?;
        let mut start = [0; LEN + HEAD];
        hw::pool_read(first.pa, &mut start).map_err(|_| Broken)?;
        let header = start.first_chunk().map(NetHeader::read).ok_or(Broken)?;
        let buffers = header.num_buffers;
        if buffers == 0 || buffers > self.queue.size() {
            return Err(Broken);
        }
        for _ in 1..buffers {
            let used = self.queue.take_used()?.ok_or(Broken)?;
            self.keep(used)?;
        }
        Ok(Some(start))
    }

    /// Makes a used buffer part of the frame at hand.
    fn keep(&mut self, used: Used) -> Result<Segment, Broken> {
        let given = self.given.get_mut(usize::from(used.head)).ok_or(Broken)?;
        // A buffer that the card does not have: it makes things up.
        if !core::mem::take(given) || used.len > BUFFER {
            return Err(Broken);
        }
        let segment = Segment {
            pa: self.address(used.head),
            len: used.len,
        };
        self.frame.push(segment);
        Ok(segment)
    }

    /// The frame at hand, header first.
    pub(super) fn frame(&self) -> &[Segment] {
        &self.frame
    }

    /// The card may have the buffers of the frame at hand again.
    pub(super) fn give_back(&mut self) {
        while let Some(segment) = self.frame.pop() {
            let index = (segment.pa - self.buffers) / u64::from(BUFFER);
            self.give(index as u16);
        }
    }

    /// Shows the card the buffers given back. True if it is to be notified.
    pub(super) fn publish(&mut self) -> bool {
        self.queue.publish()
    }

    /// Asks for an interrupt at the next frame. True if there is one already.
    pub(super) fn await_frames(&mut self) -> bool {
        self.queue.await_used()
    }
}
