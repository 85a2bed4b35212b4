//! From a guest's transmit queue to the switch.

use super::{Net, TRANSMIT};
use crate::net::frame::{Frame, HEAD};
use crate::net::header::LEN;
use crate::net::offload::{self, Accepts, Fault};
use crate::net::switch::{Counters, PortId};
use crate::net::{MAX_FRAME, NetHeader};
use crate::segment;
use crate::virtio::device::Left;
use crate::virtio::queue::{Chain, Queue, Violation};
use crate::virtio::transfer;
use core::sync::atomic::{Ordering, fence};

/// Most frames, and bytes given to others, in one go.
const FRAMES: usize = 64;
const BYTES: usize = 256 << 10;
/// What a frame counts at least, even one that nobody is given.
const LEAST: usize = 1 << 10;

/// The transmit queue of a live device.
pub(super) struct Transmitter {
    queue: Queue,
    chain: Chain,
    sends: Accepts,
}

impl Transmitter {
    pub(super) fn new(queue: Queue, sends: Accepts) -> Self {
        let chain = Chain::default();
        Self {
            queue,
            chain,
            sends,
        }
    }
}

impl Net {
    /// Sends what is in the queue.
    ///
    /// Unless it is to come `at_once`, the interrupt is left: a driver that goes on sending frees the buffers by itself, and
    /// needs none before the last.
    ///
    /// Two CPUs may notify at once. The second one does not wait: it leaves word, and the first looks again, at the
    /// interrupt, too.
    pub(super) fn transmit(&self, at_once: bool) -> Left {
        self.notified.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mut left = Left::Nothing;
        loop {
            let Some(mut guard) = self.transmitter.try_lock() else {
                return left;
            };
            while left != Left::Buffers && self.notified.swap(false, Ordering::SeqCst) {
                let Some(transmitter) = guard.as_mut() else {
                    return Left::Nothing;
                };
                match self.send(transmitter, at_once) {
                    Ok(after) => left = after,
                    Err(violation) => {
                        *guard = None;
                        self.interface.broken(TRANSMIT, &violation);
                        return Left::Nothing;
                    }
                }
            }
            drop(guard);
            // Who came after the last look found the lock taken. Between the fences: either they find it free, or this
            // finds their word.
            fence(Ordering::SeqCst);
            if left == Left::Buffers || !self.notified.load(Ordering::Relaxed) {
                return left;
            }
        }
    }

    fn send(&self, transmitter: &mut Transmitter, at_once: bool) -> Result<Left, Violation> {
        let Transmitter {
            queue,
            chain,
            sends,
        } = transmitter;
        let port = *self.port.lock();
        queue.refuse_notifications()?;
        let (mut frames, mut bytes) = (0, 0);
        loop {
            while frames < FRAMES && bytes < BYTES && queue.pop(chain)? {
                frames += 1;
                bytes += self.send_one(chain, *sends, port)?;
                queue.push(chain.head, 0)?;
            }
            let more = frames >= FRAMES || bytes >= BYTES;
            let mut left = Left::Nothing;
            if at_once || more {
                if queue.publish()? {
                    self.interface.link.used_buffers();
                }
            } else if queue.show()? {
                left = Left::Interrupt;
            }
            if more {
                return Ok(Left::Buffers);
            }
            if !queue.want_notifications()? {
                return Ok(left);
            }
        }
    }

    /// Sends one frame; answers its length, once for everybody it was for. A frame that is none is counted, and no
    /// more.
    fn send_one(
        &self,
        chain: &Chain,
        sends: Accepts,
        port: Option<PortId>,
    ) -> Result<usize, Violation> {
        if !chain.writable.is_empty() {
            return Err(Violation::Request("a frame to send that is to be written"));
        }
        let counters = &self.interface.counters;
        let total = segment::total(&chain.readable);
        let len = usize::try_from(total)
            .unwrap_or(usize::MAX)
            .saturating_sub(LEN);
        if !(HEAD..=MAX_FRAME).contains(&len) {
            Counters::count(&counters.refused, 1);
            return Ok(LEAST);
        }
        // Header and the frame's own beginning, read once.
        let mut start = [0; LEN + HEAD];
        transfer::read(&chain.readable, 0, &mut start)?;
        let (Some(header), Some(head)) = (start.first_chunk(), start.last_chunk()) else {
            return Ok(LEAST);
        };
        let sent = offload::check(&NetHeader::read(header), len, sends)
            .ok_or(Fault::Malformed)
            .and_then(|header| {
                let frame = Frame::in_pool(header, *head, &chain.readable, LEN as u64, len);
                match port {
                    Some(port) => self.switch.forward(port, &frame),
                    // Without link it is lost.
                    None => Err(Fault::Malformed),
                }
            });
        let len = len.max(LEAST);
        match sent {
            Ok(receivers) => {
                Counters::count(&counters.sent, 1);
                Counters::count(&counters.sent_bytes, total.saturating_sub(LEN as u64));
                Ok(len * receivers.max(1))
            }
            Err(Fault::Malformed) => {
                Counters::count(&counters.refused, 1);
                Ok(len)
            }
            Err(Fault::Unreachable) => Err(Violation::NotShared),
        }
    }
}
