//! Console device (virtio 1.2 §5.3), of one port without size.
//!
//! It stands beside the PL011 and shares the VM's terminal with it: what either prints is shown, and what is typed goes
//! to this device while a driver runs it, to the PL011 before and after.

use super::device::{CONFIG, Device, Left, Link};
use super::queue::{Chain, Queue, Violation};
use super::transfer;
use crate::hw::Mutex;
use crate::segment;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

const KIND: u32 = 3;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const QUEUE_SIZE: u16 = 16;
/// Bytes printed before the guest gets to run again; a buffer counts as one more.
const BUDGET: u64 = 1024;
/// Bytes printed, or given to read, in one go.
const PIECE: usize = 64;
/// Bytes typed that wait for the guest to offer buffers.
const BACKLOG: usize = 256;

/// Takes what the guest prints.
pub type Output = Box<dyn Fn(&[u8]) + Send + Sync>;

/// A console.
pub struct Console {
    link: Arc<Link>,
    output: Output,
    // Not one lock: whoever types does not wait for what the guest prints.
    receive: Mutex<Receive>,
    transmit: Mutex<Option<Transmit>>,
    printed: AtomicU64,
    typed: AtomicU64,
}

#[derive(Default)]
struct Receive {
    queue: Option<Queue>,
    chain: Chain,
    backlog: VecDeque<u8>,
}

struct Transmit {
    queue: Queue,
    chain: Chain,
    /// How much of `chain` is printed. `None`: it is done with.
    at: Option<u64>,
}

impl Console {
    /// A console without driver.
    #[must_use]
    pub fn new(link: Arc<Link>, output: Output) -> Self {
        Self {
            link,
            output,
            receive: Mutex::default(),
            transmit: Mutex::new(None),
            printed: AtomicU64::new(0),
            typed: AtomicU64::new(0),
        }
    }

    /// A byte for the guest to read; false if it takes no more at present. `None`: no driver runs the device, or it
    /// waits for a reset.
    pub fn push_input(&self, byte: u8) -> Option<bool> {
        let mut receive = self.receive.lock();
        if receive.queue.is_none() || !self.link.is_live() {
            return None;
        }
        if receive.backlog.len() >= BACKLOG {
            return Some(false);
        }
        receive.backlog.push_back(byte);
        self.typed.fetch_add(1, Ordering::Relaxed);
        self.deliver(&mut receive);
        Some(true)
    }

    /// Gives the guest what was typed, as far as it has buffers.
    fn deliver(&self, receive: &mut Receive) {
        match receive.deliver() {
            Ok(true) => self.link.used_buffers(),
            Ok(false) => {}
            Err(violation) => {
                *receive = Receive::default();
                self.link.broken(RECEIVE, &violation);
            }
        }
    }

    /// Prints. True if there is more than may be printed in one go.
    fn print(&self) -> bool {
        let mut guard = self.transmit.lock();
        let Some(transmit) = guard.as_mut() else {
            return false;
        };
        let print = |bytes: &[u8]| {
            self.printed
                .fetch_add(bytes.len() as u64, Ordering::Relaxed);
            (self.output)(bytes);
        };
        let printed = transmit.print(print).and_then(|more| {
            if transmit.queue.publish()? {
                self.link.used_buffers();
            }
            Ok(more)
        });
        printed.unwrap_or_else(|violation| {
            *guard = None;
            self.link.broken(TRANSMIT, &violation);
            false
        })
    }
}

impl Receive {
    /// True if the driver is to be interrupted.
    fn deliver(&mut self) -> Result<bool, Violation> {
        let Some(queue) = &mut self.queue else {
            return Ok(false);
        };
        while !self.backlog.is_empty() {
            // No buffer: the driver is asked to notify of the next, and looked at once more.
            let taken = queue.pop(&mut self.chain)?
                || queue.want_notifications()? && queue.pop(&mut self.chain)?;
            if !taken {
                break;
            }
            let room = segment::total(&self.chain.writable).min(PIECE as u64) as usize;
            if room == 0 {
                return Err(Violation::Request("no room for what is typed"));
            }
            let mut piece = [0; PIECE];
            let mut len = 0;
            for (to, byte) in piece.iter_mut().take(room).zip(&self.backlog) {
                *to = *byte;
                len += 1;
            }
            let bytes = piece.get(..len).unwrap_or_default();
            transfer::write(&self.chain.writable, 0, bytes)?;
            self.backlog.drain(..len);
            queue.push(self.chain.head, len as u32)?;
        }
        queue.publish()
    }
}

impl Transmit {
    /// Prints up to [`BUDGET`] bytes. True if there are more.
    fn print(&mut self, mut output: impl FnMut(&[u8])) -> Result<bool, Violation> {
        let mut budget = BUDGET;
        while budget != 0 {
            let at = match self.at {
                Some(at) => at,
                None if self.queue.pop(&mut self.chain)? => 0,
                None if self.queue.want_notifications()? => continue,
                None => return Ok(false),
            };
            if !self.chain.writable.is_empty() {
                return Err(Violation::Request(
                    "what is to be printed cannot be written to",
                ));
            }
            let left = segment::total(&self.chain.readable).saturating_sub(at);
            let len = left.min(PIECE as u64);
            let mut piece = [0; PIECE];
            let bytes = piece.get_mut(..len as usize).unwrap_or_default();
            transfer::read(&self.chain.readable, at, bytes)?;
            output(bytes);
            self.at = (len != left).then_some(at + len);
            if self.at.is_none() {
                self.queue.push(self.chain.head, 0)?;
            }
            budget = budget.saturating_sub(len + 1);
        }
        Ok(true)
    }
}

impl Device for Console {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn configuration(&self) -> [u8; CONFIG] {
        [0; CONFIG]
    }

    fn activate(&self, _features: u64, queues: Vec<Option<Queue>>) {
        let mut queues = queues.into_iter();
        let mut receive = self.receive.lock();
        *receive = Receive::default();
        receive.queue = queues.next().flatten();
        drop(receive);
        *self.transmit.lock() = queues.next().flatten().map(|queue| Transmit {
            queue,
            chain: Chain::default(),
            at: None,
        });
    }

    fn notify(&self, queue: usize) -> Left {
        if queue == TRANSMIT {
            return Left::buffers(self.print());
        }
        self.deliver(&mut self.receive.lock());
        Left::Nothing
    }

    fn resume(&self) -> bool {
        self.print()
    }

    fn reset(&self) {
        *self.receive.lock() = Receive::default();
        *self.transmit.lock() = None;
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        alloc::vec![
            ("bytes printed", value(&self.printed)),
            ("bytes typed", value(&self.typed)),
        ]
    }
}
