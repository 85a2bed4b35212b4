//! A split virtqueue, the driver's side (virtio 1.2 §2.7).
//!
//! The ring knows nothing of buffers: its user gives every descriptor a place of its own in device memory, or an
//! indirect table, once, and hands over descriptors by index. So nothing is allocated, and no Rust reference
//! to a buffer exists, while a request is under way.
//!
//! What the device writes is checked: an index beyond the queue, or more used than handed over, and the
//! device is [`Broken`].

use crate::hw::{Dma, dma_acquire, dma_fence, dma_release};
use crate::virtqueue::{
    DESCRIPTOR, INDEX, NO_INTERRUPT, NO_NOTIFY, available_bytes, available_entry, passes,
    used_bytes, used_entry,
};

/// One entry of a descriptor table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Descriptor {
    /// Physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// As in [`crate::virtqueue`].
    pub flags: u16,
    /// Index of the next.
    pub next: u16,
}

impl Descriptor {
    /// Writes it to `offset` of a table.
    #[inline]
    pub fn write(self, table: &Dma, offset: u64) {
        table.write64(offset, self.address);
        table.write64(offset + 8, shape(self.len, self.flags, self.next));
    }
}

/// The second half of a descriptor.
#[inline]
fn shape(len: u32, flags: u16, next: u16) -> u64 {
    u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48
}

/// A chain that the device is done with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    /// The chain's first descriptor.
    pub head: u16,
    /// Bytes that the device wrote.
    pub len: u32,
}

/// The device broke the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken;

/// A virtqueue.
#[derive(Debug)]
pub struct Queue {
    ring: Dma,
    size: u16,
    avail: u64,
    used: u64,
    event_idx: bool,
    /// Chains handed over, modulo 2^16, published or not.
    next_avail: u16,
    /// What the device was last told of `next_avail`.
    published: u16,
    /// Chains taken back, modulo 2^16.
    next_used: u16,
    /// The last used index read.
    seen: u16,
}

impl Queue {
    /// Bytes of device memory for `size` descriptors.
    #[must_use]
    pub const fn bytes(size: u16) -> u64 {
        Self::used_offset(size) + used_bytes(size)
    }

    const fn available_offset(size: u16) -> u64 {
        DESCRIPTOR * size as u64
    }

    const fn used_offset(size: u16) -> u64 {
        (Self::available_offset(size) + available_bytes(size)).next_multiple_of(4)
    }

    /// A queue of `size` descriptors, a power of two, in `ring`, which is zero. `None` if it does not fit.
    #[must_use]
    pub fn new(ring: Dma, size: u16, event_idx: bool) -> Option<Self> {
        if !size.is_power_of_two() || ring.bytes() < Self::bytes(size) {
            return None;
        }
        Some(Self {
            ring,
            size,
            avail: Self::available_offset(size),
            used: Self::used_offset(size),
            event_idx,
            next_avail: 0,
            published: 0,
            next_used: 0,
            seen: 0,
        })
    }

    /// Descriptors.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Addresses of the descriptor table, the driver area and the device area.
    #[must_use]
    pub fn addresses(&self) -> [u64; 3] {
        let base = self.ring.address();
        [base, base + self.avail, base + self.used]
    }

    /// Sets descriptor `index`, which the device does not have.
    #[inline]
    pub fn describe(&self, index: u16, descriptor: Descriptor) {
        descriptor.write(&self.ring, u64::from(index) * DESCRIPTOR);
    }

    /// Sets length, flags and successor of descriptor `index`, whose address stays.
    #[inline]
    pub fn extend(&self, index: u16, len: u32, flags: u16, next: u16) {
        let offset = u64::from(index) * DESCRIPTOR + 8;
        self.ring.write64(offset, shape(len, flags, next));
    }

    /// Puts the chain that starts at `head` into the ring; [`Self::publish`] shows it.
    #[inline]
    pub fn offer(&mut self, head: u16) {
        let slot = self.next_avail & (self.size - 1);
        self.ring.write16(self.avail + available_entry(slot), head);
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Shows the device all chains offered. True if it is to be notified (§2.7.10).
    #[inline]
    pub fn publish(&mut self) -> bool {
        let (new, old) = (self.next_avail, self.published);
        if new == old {
            return false;
        }
        dma_release();
        self.ring.write16(self.avail + INDEX, new);
        self.published = new;
        // The device writes its wish, then reads the index; this does it the other way round.
        dma_fence();
        if self.event_idx {
            let event = self.ring.read16(self.used + used_entry(self.size));
            passes(event, new, old)
        } else {
            self.ring.read16(self.used) & NO_NOTIFY == 0
        }
    }

    /// Takes one chain back, if the device is done with one.
    #[inline]
    pub fn take_used(&mut self) -> Result<Option<Used>, Broken> {
        if self.seen == self.next_used {
            self.seen = self.ring.read16(self.used + INDEX);
            let new = self.seen.wrapping_sub(self.next_used);
            if new == 0 {
                return Ok(None);
            }
            if new > self.published.wrapping_sub(self.next_used) {
                return Err(Broken);
            }
            dma_acquire();
        }
        let entry = self.used + used_entry(self.next_used & (self.size - 1));
        let (id, len) = (self.ring.read32(entry), self.ring.read32(entry + 4));
        let head = u16::try_from(id).ok().filter(|&head| head < self.size);
        let head = head.ok_or(Broken)?;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(Used { head, len }))
    }

    /// Asks for an interrupt at the next used chain. True if there is one already: then it is to be taken
    /// without (§2.7.7).
    #[inline]
    pub fn await_used(&mut self) -> bool {
        if self.event_idx {
            self.ring
                .write16(self.avail + available_entry(self.size), self.next_used);
        } else {
            self.ring.write16(self.avail, 0);
        }
        dma_fence();
        self.ring.read16(self.used + INDEX) != self.next_used
    }

    /// Asks for no interrupts until half of 2^16 more chains have been used.
    #[inline]
    pub fn ignore_used(&mut self) {
        if self.event_idx {
            let far = self.next_used.wrapping_add(1 << 15);
            self.ring
                .write16(self.avail + available_entry(self.size), far);
        } else {
            self.ring.write16(self.avail, NO_INTERRUPT);
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
