//! The card's transmit queue: buffers of the driver's own, which frames are copied into; and what waits for some.

use crate::drivers::Queue;
use crate::drivers::queue::{Broken, Descriptor};
use crate::net::NetHeader;
use crate::net::backlog::Backlog;
use crate::net::frame::{Frame, HEAD};
use crate::net::header::LEN;
use crate::net::offload::Fault;
use crate::segment::Segment;
use crate::virtio::transfer;
use crate::virtqueue::NEXT;
use alloc::vec;
use alloc::vec::Vec;

/// Bytes of a buffer. A frame takes as many as it needs, chained.
pub(super) const BUFFER: u32 = 4096;
/// Most bytes that wait for buffers.
const BACKLOG: usize = 512 << 10;

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Placed {
    /// The card has it, or will have it.
    Done,
    /// There is no room.
    Dropped,
    /// The card breaks the protocol.
    Broken,
}

/// The queue and what waits for it.
pub(super) struct Transmitter {
    queue: Queue,
    /// Address of the first buffer.
    buffers: u64,
    free: Vec<u16>,
    /// For each buffer of a chain that the card has, the one behind it.
    next: Vec<u16>,
    /// For the first of each chain that the card has, the chain's length; 0 for all others.
    chained: Vec<u16>,
    /// The buffers of the frame at hand.
    pieces: Vec<Segment>,
    backlog: Backlog,
}

impl Transmitter {
    /// `buffers` is the address of as many buffers as the queue has descriptors.
    pub(super) fn new(queue: Queue, buffers: u64) -> Self {
        let size = usize::from(queue.size());
        let mut transmitter = Self {
            buffers,
            free: (0..queue.size()).rev().collect(),
            next: vec![0; size],
            chained: vec![0; size],
            pieces: Vec::with_capacity(size),
            backlog: Backlog::new(BACKLOG),
            queue,
        };
        for index in 0..transmitter.queue.size() {
            let descriptor = Descriptor {
                address: transmitter.address(index),
                ..Descriptor::default()
            };
            transmitter.queue.describe(index, descriptor);
        }
        // Room is looked for when it is needed.
        transmitter.queue.ignore_used();
        transmitter
    }

    const fn address(&self, index: u16) -> u64 {
        self.buffers + index as u64 * BUFFER as u64
    }

    /// Puts a frame into the queue or the backlog. The card sees it after [`Self::publish`]. An error is the sender's.
    pub(super) fn take(&mut self, frame: &Frame<'_>) -> Result<Placed, Fault> {
        // In order: what waits goes first.
        let room = self.work_off().and_then(|()| {
            let clear = self.backlog.is_empty();
            Ok(clear && self.make_room(frame.len())?)
        });
        match room {
            Err(Broken) => Ok(Placed::Broken),
            Ok(true) => self.place(frame).map(|()| Placed::Done),
            Ok(false) if !self.backlog.keep(frame)? => Ok(Placed::Dropped),
            // Asks for an interrupt, and looks once more: what was sent before comes without one.
            Ok(false) => match self.work_off() {
                Ok(()) => Ok(Placed::Done),
                Err(Broken) => Ok(Placed::Broken),
            },
        }
    }

    /// True if there are, or the card has left, enough buffers for a frame of `len` bytes.
    fn make_room(&mut self, len: usize) -> Result<bool, Broken> {
        let need = (LEN + len).div_ceil(BUFFER as usize);
        if self.free.len() < need {
            self.collect()?;
        }
        Ok(self.free.len() >= need)
    }

    /// Takes back what the card has sent.
    fn collect(&mut self) -> Result<(), Broken> {
        while let Some(used) = self.queue.take_used()? {
            let chained = self.chained.get_mut(usize::from(used.head));
            let mut left = core::mem::take(chained.ok_or(Broken)?);
            if left == 0 {
                // A chain that the card does not have: it makes things up.
                return Err(Broken);
            }
            let mut index = used.head;
            while left != 0 {
                self.free.push(index);
                index = *self.next.get(usize::from(index)).ok_or(Broken)?;
                left -= 1;
            }
        }
        Ok(())
    }

    /// Copies a frame into free buffers, of which there are enough, and puts them into the queue.
    fn place(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        let total = LEN + frame.len();
        let need = total.div_ceil(BUFFER as usize);
        let first = self.free.len() - need;
        self.pieces.clear();
        for &index in self.free.iter().skip(first) {
            self.pieces.push(Segment {
                pa: self.address(index),
                len: BUFFER,
            });
        }
        // §5.1.6.2: `num_buffers` is 0.
        let header = NetHeader {
            num_buffers: 0,
            ..frame.header
        };
        let mut start = [0; LEN + HEAD];
        let fields = header.bytes().into_iter().chain(*frame.head());
        start
            .iter_mut()
            .zip(fields)
            .for_each(|(to, from)| *to = from);
        transfer::write(&self.pieces, 0, &start)?;
        // Our own side can be reached: a fault is the sender's.
        frame
            .copy(HEAD, &self.pieces, start.len() as u64, frame.len() - HEAD)
            .map_err(|_| Fault::Unreachable)?;
        self.chain(need, total);
        Ok(())
    }

    /// Makes the last `need` free buffers, in which there are `total` bytes, a chain, and offers it.
    fn chain(&mut self, need: usize, total: usize) {
        let buffer = BUFFER as usize;
        let (mut head, mut flags) = (0, 0);
        // From the last one on: each is linked to the one behind it.
        let mut len = total.saturating_sub((need - 1) * buffer);
        for _ in 0..need {
            let Some(index) = self.free.pop() else { break };
            self.queue.extend(index, len as u32, flags, head);
            if let Some(next) = self.next.get_mut(usize::from(index)) {
                *next = head;
            }
            (head, flags, len) = (index, NEXT, buffer);
        }
        if let Some(chained) = self.chained.get_mut(usize::from(head)) {
            *chained = need as u16;
        }
        self.queue.offer(head);
    }

    /// Moves what waits into the queue, as far as there is room; asks for an interrupt if some is left.
    pub(super) fn work_off(&mut self) -> Result<(), Broken> {
        if self.backlog.is_empty() {
            return Ok(());
        }
        while let Some(waiting) = self.backlog.pop() {
            if !self.make_room(waiting.len())? {
                self.backlog.put_back(waiting);
                if self.queue.await_used() {
                    continue;
                }
                return Ok(());
            }
            // Its bytes are our own: they can be reached.
            if let Some(frame) = waiting.frame() {
                let _ = self.place(&frame);
            }
        }
        self.queue.ignore_used();
        Ok(())
    }

    /// True if the card has sent everything.
    #[cfg(test)]
    pub(super) fn is_idle(&mut self) -> Result<bool, Broken> {
        self.collect()?;
        Ok(self.backlog.is_empty() && self.free.len() == usize::from(self.queue.size()))
    }

    /// Shows the card what was put into the queue. True if it is to be notified.
    pub(super) fn publish(&mut self) -> bool {
        self.queue.publish()
    }
}
