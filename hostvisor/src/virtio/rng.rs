//! Entropy device (virtio 1.2 §5.4).
//!
//! The bytes come from the hostvisor's generator, which a protected VM has no reason to trust: its kernel
//! mixes them with what else it has, and they never make that worse.

use super::device::{CONFIG, Device, Left, Link};
use super::queue::{Chain, Queue, Violation};
use super::transfer;
use crate::hw::Mutex;
use crate::random;
use crate::segment;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

const KIND: u32 = 4;
const QUEUE_SIZE: u16 = 16;
/// Most bytes given for one request. The standard lets the device write fewer than asked for.
const MOST: usize = 256;
/// Most requests answered in one go.
const BUDGET: usize = 2 * QUEUE_SIZE as usize;

/// An entropy device.
pub struct Rng {
    link: Arc<Link>,
    queue: Mutex<Option<(Queue, Chain)>>,
    bytes: AtomicU64,
}

impl Rng {
    /// A device without driver.
    #[must_use]
    pub fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            queue: Mutex::new(None),
            bytes: AtomicU64::new(0),
        }
    }

    fn serve(&self, queue: &mut Queue, chain: &mut Chain) -> Result<bool, Violation> {
        let mut more = true;
        let mut budget = BUDGET;
        while more && budget != 0 {
            while budget != 0 && queue.pop(chain)? {
                budget -= 1;
                let wanted = segment::total(&chain.writable).min(MOST as u64) as usize;
                if wanted == 0 {
                    return Err(Violation::Request("nothing to write entropy to"));
                }
                let mut bytes = [0; MOST];
                let bytes = bytes.get_mut(..wanted).unwrap_or_default();
                random::fill(bytes);
                transfer::write(&chain.writable, 0, bytes)?;
                queue.push(chain.head, wanted as u32)?;
                self.bytes.fetch_add(wanted as u64, Ordering::Relaxed);
            }
            if queue.publish()? {
                self.link.used_buffers();
            }
            more = queue.want_notifications()?;
        }
        Ok(more)
    }
}

impl Device for Rng {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn configuration(&self) -> [u8; CONFIG] {
        [0; CONFIG]
    }

    fn activate(&self, _features: u64, queues: Vec<Option<Queue>>) {
        let queue = queues.into_iter().next().flatten();
        *self.queue.lock() = queue.map(|queue| (queue, Chain::default()));
    }

    fn notify(&self, _queue: usize) -> Left {
        Left::buffers(self.resume())
    }

    fn resume(&self) -> bool {
        let mut guard = self.queue.lock();
        let Some((queue, chain)) = guard.as_mut() else {
            return false;
        };
        match self.serve(queue, chain) {
            Ok(more) => more,
            Err(violation) => {
                *guard = None;
                self.link.broken(0, &violation);
                false
            }
        }
    }

    fn reset(&self) {
        *self.queue.lock() = None;
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        alloc::vec![("bytes", self.bytes.load(Ordering::Relaxed))]
    }
}
