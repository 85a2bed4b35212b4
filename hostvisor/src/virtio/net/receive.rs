//! From the switch into a guest's receive buffers.
//!
//! What there are no buffers for waits in a backlog of bounded bytes, in order, until the guest makes buffers
//! available; when that is full, or the heap low, frames are dropped and counted.

use super::{Interface, RECEIVE};
use crate::hw::{CopyFault, Unreachable};
use crate::net::NetHeader;
use crate::net::backlog::Backlog;
use crate::net::feature::{self, takes};
use crate::net::frame::{Frame, HEAD};
use crate::net::header::LEN;
use crate::net::offload::{self, Accepts, Fault};
use crate::net::switch::Counters;
use crate::segment;
use crate::virtio::queue::{Chain, Queue, Violation};
use crate::virtio::transfer;
use alloc::vec::Vec;

/// Most bytes that wait for one guest.
const BACKLOG: usize = 128 << 10;
/// Most buffers that a frame is spread over: 64 KiB in buffers of 1 KiB. A guest that offers smaller ones gets no large
/// frames. This, and [`super::RECEIVE_CHAIN`], is what their sender may have to do for it.
const MAX_BUFFERS: usize = 66;
/// Most frames taken from the backlog in one go.
const FRAMES: usize = 64;

/// The receive queue and what waits for it.
pub(super) struct Receiver {
    queue: Option<Queue>,
    takes: Accepts,
    mergeable: bool,
    first: Chain,
    next: Chain,
    /// Chains that the frame at hand is put into: head, and bytes.
    used: Vec<(u16, u32)>,
    backlog: Backlog,
}

/// What became of a frame.
enum Placed {
    Done,
    /// There are not enough buffers now.
    NoBuffers,
    /// It does not fit the buffers that there are.
    TooLarge,
}

/// Whose fault it is.
enum Blame {
    Sender(Fault),
    Receiver(Violation),
}

impl From<Violation> for Blame {
    fn from(violation: Violation) -> Self {
        Self::Receiver(violation)
    }
}

impl From<Fault> for Blame {
    fn from(fault: Fault) -> Self {
        Self::Sender(fault)
    }
}

impl From<Unreachable> for Blame {
    fn from(fault: Unreachable) -> Self {
        Self::Sender(fault.into())
    }
}

impl From<CopyFault> for Blame {
    fn from(fault: CopyFault) -> Self {
        match fault {
            CopyFault::Source => Self::Sender(Fault::Unreachable),
            CopyFault::Target => Self::Receiver(Violation::NotShared),
        }
    }
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            queue: None,
            takes: Accepts::default(),
            mergeable: false,
            first: Chain::default(),
            next: Chain::default(),
            used: Vec::new(),
            backlog: Backlog::new(BACKLOG),
        }
    }

    pub(super) fn start(&mut self, queue: Option<Queue>, features: u64) {
        self.stop();
        self.queue = queue;
        self.takes = takes(features);
        self.mergeable = features & feature::MRG_RXBUF != 0;
    }

    pub(super) fn stop(&mut self) {
        self.queue = None;
        self.backlog.clear();
    }

    /// Puts a frame into buffers, if there are enough of them. The driver sees it after [`Queue::publish`].
    fn place(&mut self, frame: &Frame<'_>) -> Result<Placed, Blame> {
        let Some(queue) = &mut self.queue else {
            return Ok(Placed::TooLarge);
        };
        let need = LEN + frame.len();
        self.used.clear();
        let mut done = 0;
        while done < need {
            let taken = self.used.len();
            let chain = if taken == 0 {
                &mut self.first
            } else {
                &mut self.next
            };
            // What is larger than all that the ring has room for would hold up everything behind it for ever.
            let whole_ring = taken == usize::from(queue.size());
            let small = whole_ring || taken == MAX_BUFFERS || (taken == 1 && !self.mergeable);
            if small || !queue.pop(chain)? {
                queue.put_back(taken as u16);
                return Ok(if small {
                    Placed::TooLarge
                } else {
                    Placed::NoBuffers
                });
            }
            if !chain.readable.is_empty() {
                return Err(Violation::Request("a receive buffer that is to be read").into());
            }
            let room = usize::try_from(segment::total(&chain.writable)).unwrap_or(usize::MAX);
            let piece = room.min(need - done);
            // The headers are written last, when it is known how many buffers there are.
            let skip = if taken == 0 { LEN + HEAD } else { 0 };
            if room < skip {
                return Err(Violation::Request("a receive buffer too small for headers").into());
            }
            let copied = frame.copy(
                done + skip - LEN,
                &chain.writable,
                skip as u64,
                piece - skip,
            );
            if let Err(fault) = copied {
                queue.put_back(taken as u16 + 1);
                return Err(fault.into());
            }
            self.used.push((chain.head, piece as u32));
            done += piece;
        }
        let header = NetHeader {
            num_buffers: self.used.len() as u16,
            ..frame.header
        };
        let mut start = [0; LEN + HEAD];
        let fields = header.bytes().into_iter().chain(*frame.head());
        start
            .iter_mut()
            .zip(fields)
            .for_each(|(to, from)| *to = from);
        transfer::write(&self.first.writable, 0, &start).map_err(Violation::from)?;
        for &(head, bytes) in &self.used {
            queue.push(head, bytes)?;
        }
        Ok(Placed::Done)
    }

    /// Asks to be notified of the next buffer. True if there are more than at the last look, of which no notification
    /// comes.
    fn ask_for_buffers(&mut self) -> Result<bool, Violation> {
        let Some(queue) = &mut self.queue else {
            return Ok(false);
        };
        let before = queue.ready();
        queue.want_notifications()?;
        Ok(queue.ready() > before)
    }
}

impl Interface {
    /// A frame from the switch. An error is the sender's fault.
    pub(super) fn receive(&self, frame: &Frame<'_>) -> Result<(), Fault> {
        let mut receiver = self.receiver.lock();
        if receiver.queue.is_none() || !self.link.is_live() {
            Counters::count(&self.counters.dropped, 1);
            return Ok(());
        }
        let mut starved = false;
        let takes = receiver.takes;
        let result = offload::adapt(frame, takes, |frame| {
            starved |= self.take(&mut receiver, frame)?;
            Ok(())
        });
        let result = result.map(|has_memory| {
            if !has_memory {
                Counters::count(&self.counters.dropped, 1);
            }
        });
        let result = match result {
            Err(Blame::Receiver(violation)) => Err(violation.into()),
            // What a faulty sender has already delivered is shown, too.
            other => self
                .show(&mut receiver, starved)
                .map_err(Blame::from)
                .and(other),
        };
        self.settle(&mut receiver, result)
    }

    /// Puts a frame into buffers or keeps it, or counts that it is dropped. True if there were no buffers.
    fn take(&self, receiver: &mut Receiver, frame: &Frame<'_>) -> Result<bool, Blame> {
        // In order.
        let placed = if receiver.backlog.is_empty() {
            receiver.place(frame)?
        } else {
            Placed::NoBuffers
        };
        match placed {
            Placed::Done => self.count(frame.len()),
            Placed::NoBuffers if receiver.backlog.keep(frame)? => return Ok(true),
            Placed::NoBuffers | Placed::TooLarge => {
                Counters::count(&self.counters.dropped, 1);
            }
        }
        Ok(false)
    }

    fn count(&self, bytes: usize) {
        Counters::count(&self.counters.received, 1);
        Counters::count(&self.counters.received_bytes, bytes as u64);
    }

    /// Shows the driver what was put into its buffers; asks it for buffers if frames wait.
    fn show(&self, receiver: &mut Receiver, starved: bool) -> Result<(), Violation> {
        if let Some(queue) = &mut receiver.queue
            && queue.publish()?
        {
            self.link.used_buffers();
        }
        // Buffers may have come just before they were asked for: those are not announced.
        if starved && self.work_off(receiver)? {
            self.link.go_on();
        }
        Ok(())
    }

    /// There may be buffers. True if more frames wait than are handed over in one go.
    pub(super) fn refilled(&self) -> bool {
        let mut receiver = self.receiver.lock();
        match self.work_off(&mut receiver) {
            Ok(more) => more,
            Err(violation) => {
                let _ = self.settle(&mut receiver, Err(Blame::Receiver(violation)));
                false
            }
        }
    }

    /// Hands over what waits, as far as there are buffers. True if it stops before that.
    ///
    /// Notifications are asked for only while frames wait: a guest that has buffers left need not tell of more.
    fn work_off(&self, receiver: &mut Receiver) -> Result<bool, Violation> {
        let mut budget = FRAMES;
        let mut stuck = false;
        while budget != 0
            && !stuck
            && let Some(waiting) = receiver.backlog.pop()
        {
            budget -= 1;
            let placed = match waiting.frame() {
                Some(frame) => receiver.place(&frame),
                None => Ok(Placed::TooLarge),
            };
            match placed {
                Ok(Placed::NoBuffers) => {
                    receiver.backlog.put_back(waiting);
                    stuck = !receiver.ask_for_buffers()?;
                    continue;
                }
                Ok(Placed::Done) => self.count(waiting.len()),
                // The frame is in our own memory: there is no other sender.
                Ok(Placed::TooLarge) | Err(Blame::Sender(_)) => {
                    Counters::count(&self.counters.dropped, 1);
                }
                Err(Blame::Receiver(violation)) => return Err(violation),
            }
        }
        let Some(queue) = &mut receiver.queue else {
            return Ok(false);
        };
        if queue.publish()? {
            self.link.used_buffers();
        }
        if receiver.backlog.is_empty() {
            queue.refuse_notifications()?;
            return Ok(false);
        }
        Ok(!stuck)
    }

    /// A violation stops this device; a sender's fault is the sender's.
    fn settle(&self, receiver: &mut Receiver, result: Result<(), Blame>) -> Result<(), Fault> {
        match result {
            Ok(()) => Ok(()),
            Err(Blame::Sender(fault)) => Err(fault),
            Err(Blame::Receiver(violation)) => {
                receiver.stop();
                Counters::count(&self.counters.dropped, 1);
                self.broken(RECEIVE, &violation);
                Ok(())
            }
        }
    }
}
