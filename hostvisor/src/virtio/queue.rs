//! The device's side of a split virtqueue (virtio 1.2 §2.7), over the memory of a guest that may be hostile.
//!
//! Everything a guest writes is read once into this program's memory and checked there: descriptors one by one
//! as the chain is walked, ring indices once for each look. A walk ends after as many descriptors as the device has
//! use for, the queue's size at most; a queue never has more chains out than its size. Buffers lie in the guest's memory, or the
//! chain is refused. What breaks the rules is a [`Violation`]: the device stops and wants a reset (§2.1.2).
//! A guest that changes its rings while they are read gets one or the other of its own values.
//!
//! Ordering: the available index is read with acquire before the entries it covers; used entries are written
//! before the used index, which is written with release. Between writing an index and deciding by the other
//! side's wishes whether to notify, and between asking for notifications and looking once more for buffers, stands
//! a full barrier (§2.7.7, §2.7.13.3).

use crate::hw::Unreachable;
use crate::segment::Segment;
use crate::virtqueue::{
    DESCRIPTOR, INDEX, INDIRECT, NEXT, NO_INTERRUPT, NO_NOTIFY, WRITE, available_bytes,
    available_entry, passes, used_bytes, used_entry,
};
use crate::vm::memory::{Area, GuestMemory};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{Ordering, fence};

/// Largest queue of any device here.
pub const MAX_SIZE: u16 = 1024;
/// Most physically contiguous pieces that a chain's buffers of one direction may consist of.
pub const MAX_SEGMENTS: usize = 1024;

/// Largest buffer: more than any request has, and little enough to find its pieces in no time.
const MAX_BUFFER: u32 = 32 << 20;

/// What a driver did to its queue that the standard forbids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// The queue's size is not a power of two, or larger than offered.
    Size(u32),
    /// A ring is not aligned or not within the guest's memory.
    Place(u64),
    /// A ring of this queue overlaps one of another.
    Overlap,
    /// The available index is this far ahead, which is more than the queue holds.
    AvailableIndex(u16),
    /// More buffers are made available than there are descriptors.
    TooManyBuffers,
    /// No such descriptor.
    Descriptor(u16),
    /// The chain has more descriptors than the device takes; it may be endless.
    Long(u16),
    /// An indirect descriptor that is not negotiated, not alone, or inside an indirect table.
    Indirect,
    /// Length of an indirect table.
    IndirectLength(u32),
    /// A buffer to be read lies behind one to be written.
    Order,
    /// A buffer without bytes.
    Empty,
    /// A buffer of more bytes than any request has.
    Large(u32),
    /// A buffer that is not within the guest's memory, or in too many pieces.
    Buffer(u64, u32),
    /// The chain is not what the device's requests look like.
    Request(&'static str),
    /// Memory that the VM has not shared with the hostvisor.
    NotShared,
}

impl From<Unreachable> for Violation {
    fn from(_: Unreachable) -> Self {
        Self::NotShared
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "queue size {size}"),
            Self::Place(ipa) => write!(f, "ring at {ipa:#x} is misaligned or outside memory"),
            Self::Overlap => write!(f, "its rings overlap another queue's"),
            Self::AvailableIndex(ahead) => {
                write!(
                    f,
                    "available index is {ahead} ahead, more than the queue holds"
                )
            }
            Self::TooManyBuffers => write!(f, "more buffers than descriptors"),
            Self::Descriptor(index) => write!(f, "no descriptor {index}"),
            Self::Long(most) => write!(f, "descriptor chain loops or has more than {most}"),
            Self::Indirect => write!(f, "indirect descriptor where none may be"),
            Self::IndirectLength(len) => write!(f, "indirect table of {len} bytes"),
            Self::Order => write!(f, "buffer to read behind one to write"),
            Self::Empty => write!(f, "empty buffer"),
            Self::Large(len) => write!(f, "buffer of {len} bytes"),
            Self::Buffer(ipa, len) => {
                write!(f, "buffer of {len} bytes at {ipa:#x} is not within memory")
            }
            Self::Request(what) => write!(f, "{what}"),
            Self::NotShared => write!(f, "memory that the VM does not share"),
        }
    }
}

/// Where a driver has put a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Descriptors.
    pub size: u16,
    /// IPA of the descriptor table.
    pub descriptors: u64,
    /// IPA of the available ring ("driver area").
    pub available: u64,
    /// IPA of the used ring ("device area").
    pub used: u64,
}

impl Place {
    /// Its three rings: first IPA, bytes, alignment (§2.7).
    fn rings(&self) -> [(u64, u64, u64); 3] {
        [
            (
                self.descriptors,
                DESCRIPTOR * u64::from(self.size),
                DESCRIPTOR,
            ),
            (self.available, available_bytes(self.size), 2),
            (self.used, used_bytes(self.size), 4),
        ]
    }

    /// True if a ring of this queue overlaps one of `other`.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let end = |&(base, bytes, _): &(u64, u64, u64)| base.saturating_add(bytes);
        self.rings().iter().any(|a| {
            let meets = |b: &(u64, u64, u64)| a.0 < end(b) && b.0 < end(a);
            other.rings().iter().any(meets)
        })
    }
}

/// What was negotiated that concerns queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_index: bool,
}

/// A chain of buffers, taken out of a queue. Its vectors are used over and over.
#[derive(Debug, Default)]
pub struct Chain {
    /// The chain's first descriptor: its name.
    pub head: u16,
    /// What the driver has written for the device.
    pub readable: Vec<Segment>,
    /// What the device may write.
    pub writable: Vec<Segment>,
}

/// A queue in use.
#[derive(Debug)]
pub struct Queue {
    memory: Arc<GuestMemory>,
    descriptors: Area,
    available: Area,
    used: Area,
    size: u16,
    /// Most descriptors of a chain.
    longest: u16,
    options: Options,
    /// The available index to be looked at next, and up to where it was valid at the last look.
    next: u16,
    seen: u16,
    /// The used index to be written next, the one the driver has been shown, and the one at which it was last
    /// asked whether it wants to know.
    filled: u16,
    published: u16,
    asked: u16,
}

#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    const fn read([address, rest]: [u64; 2]) -> Self {
        Self {
            address,
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }
}

impl Queue {
    /// The queue that the driver has put at `place`.
    pub fn new(
        memory: Arc<GuestMemory>,
        place: &Place,
        options: Options,
    ) -> Result<Self, Violation> {
        if !place.size.is_power_of_two() || place.size > MAX_SIZE {
            return Err(Violation::Size(place.size.into()));
        }
        let mut areas = [None; 3];
        for (area, (ipa, bytes, align)) in areas.iter_mut().zip(place.rings()) {
            *area = memory
                .area(ipa, bytes)
                .filter(|_| ipa.is_multiple_of(align));
            if area.is_none() {
                return Err(Violation::Place(ipa));
            }
        }
        let [Some(descriptors), Some(available), Some(used)] = areas else {
            return Err(Violation::Place(place.descriptors));
        };
        Ok(Self {
            memory,
            descriptors,
            available,
            used,
            size: place.size,
            longest: place.size,
            options,
            next: 0,
            seen: 0,
            filled: 0,
            published: 0,
            asked: 0,
        })
    }

    /// The same, with at most so many descriptors in a chain.
    #[must_use]
    pub fn of_chains_up_to(mut self, longest: u16) -> Self {
        self.longest = longest.min(self.size);
        self
    }

    /// Descriptors.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Chains that are taken and not given back.
    #[must_use]
    pub const fn out(&self) -> u16 {
        self.next.wrapping_sub(self.filled)
    }

    /// Takes the next chain. False if there is none, and the driver's index has been looked at to see.
    #[inline]
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, Violation> {
        if self.next == self.seen && !self.look()? {
            return Ok(false);
        }
        if self.out() >= self.size {
            return Err(Violation::TooManyBuffers);
        }
        let slot = self.next & (self.size - 1);
        let head = self.available.load16(available_entry(slot))?;
        chain.head = head;
        chain.readable.clear();
        chain.writable.clear();
        self.walk(head, chain)?;
        self.next = self.next.wrapping_add(1);
        Ok(true)
    }

    /// Looks how far the driver's index has come. True if there is something to take.
    fn look(&mut self) -> Result<bool, Violation> {
        let seen = self.available.load_acquire16(INDEX)?;
        let ahead = seen.wrapping_sub(self.next);
        if ahead > self.size {
            return Err(Violation::AvailableIndex(ahead));
        }
        self.seen = seen;
        Ok(ahead != 0)
    }

    /// Puts the last `chains` chains that were taken back, as if they had not been.
    pub fn put_back(&mut self, chains: u16) {
        self.next = self.next.wrapping_sub(chains.min(self.out()));
    }

    fn walk(&self, head: u16, chain: &mut Chain) -> Result<(), Violation> {
        let mut index = head;
        let mut table = self.descriptors;
        let mut entries = self.size;
        let mut indirect = false;
        // One more than buffers: the indirect descriptor is none.
        for _ in 0..=self.longest {
            if index >= entries {
                return Err(Violation::Descriptor(index));
            }
            let descriptor = Descriptor::read(table.load128(u64::from(index) * DESCRIPTOR)?);
            if descriptor.flags & INDIRECT != 0 {
                // §2.7.5.3.1: not both flags, no table in a table. This takes an indirect descriptor alone,
                // or at the end of a chain.
                if !self.options.indirect || indirect || descriptor.flags & NEXT != 0 {
                    return Err(Violation::Indirect);
                }
                let (len, address) = (descriptor.len, descriptor.address);
                let number = u64::from(len) / DESCRIPTOR;
                let whole = u64::from(len).is_multiple_of(DESCRIPTOR);
                if !whole || number == 0 || number > u64::from(self.size) {
                    return Err(Violation::IndirectLength(len));
                }
                // Tables need no alignment; those that have none are copied by bytes further down.
                table = match self.memory.area(address, len.into()) {
                    Some(area) if address.is_multiple_of(DESCRIPTOR) => area,
                    Some(_) => return self.walk_unaligned(address, number as u16, chain),
                    None => return Err(Violation::Buffer(address, len)),
                };
                (index, entries, indirect) = (0, number as u16, true);
                continue;
            }
            self.take(&descriptor, chain)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
        Err(Violation::Long(self.longest))
    }

    /// [`Self::walk`] through an indirect table that is not aligned to a descriptor's size.
    #[cold]
    fn walk_unaligned(&self, table: u64, entries: u16, chain: &mut Chain) -> Result<(), Violation> {
        let mut index = 0;
        let mut pieces = Vec::with_capacity(2);
        for _ in 0..self.longest {
            if index >= entries {
                return Err(Violation::Descriptor(index));
            }
            let address = table + u64::from(index) * DESCRIPTOR;
            pieces.clear();
            self.memory
                .segments(address, DESCRIPTOR as u32, &mut pieces, 2)
                .map_err(|_| Violation::Buffer(address, DESCRIPTOR as u32))?;
            let mut bytes = [0; 16];
            super::transfer::read(&pieces, 0, &mut bytes)?;
            let value = u128::from_le_bytes(bytes);
            let descriptor = Descriptor::read([value as u64, (value >> 64) as u64]);
            if descriptor.flags & INDIRECT != 0 {
                return Err(Violation::Indirect);
            }
            self.take(&descriptor, chain)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
        Err(Violation::Long(self.longest))
    }

    /// Adds one buffer to the chain.
    #[inline]
    fn take(&self, descriptor: &Descriptor, chain: &mut Chain) -> Result<(), Violation> {
        if descriptor.len == 0 {
            return Err(Violation::Empty);
        }
        if descriptor.len > MAX_BUFFER {
            return Err(Violation::Large(descriptor.len));
        }
        let list = if descriptor.flags & WRITE != 0 {
            &mut chain.writable
        } else if chain.writable.is_empty() {
            &mut chain.readable
        } else {
            // §2.7.4.2
            return Err(Violation::Order);
        };
        self.memory
            .segments(descriptor.address, descriptor.len, list, MAX_SEGMENTS)
            .map_err(|_| Violation::Buffer(descriptor.address, descriptor.len))
    }

    /// Gives the chain that begins at `head` back, `written` bytes of whose writable buffers have been written.
    /// The driver sees it after [`Self::publish`].
    #[inline]
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), Violation> {
        let at = used_entry(self.filled & (self.size - 1));
        self.used.store32(at, head.into())?;
        self.used.store32(at + 4, written)?;
        self.filled = self.filled.wrapping_add(1);
        Ok(())
    }

    /// Shows the driver all that was given back. True if it wants an interrupt for that.
    #[inline]
    pub fn publish(&mut self) -> Result<bool, Violation> {
        let wants = self.show()?;
        self.asked = self.published;
        Ok(wants)
    }

    /// Shows the driver all that was given back. True if it wants an interrupt for that as yet: [`Self::publish`] asks
    /// once more.
    #[inline]
    pub fn show(&mut self) -> Result<bool, Violation> {
        if self.filled != self.published {
            self.used.store_release16(INDEX, self.filled)?;
            self.published = self.filled;
        }
        let wants = self.ask()?;
        if !wants {
            self.asked = self.published;
        }
        Ok(wants)
    }

    /// True if the driver wants an interrupt for what was shown since it was asked last.
    #[inline]
    fn ask(&self) -> Result<bool, Violation> {
        if self.published == self.asked {
            return Ok(false);
        }
        fence(Ordering::SeqCst);
        if self.options.event_index {
            let event = self.available.load16(available_entry(self.size))?;
            Ok(passes(event, self.published, self.asked))
        } else {
            Ok(self.available.load16(0)? & NO_INTERRUPT == 0)
        }
    }

    /// Chains that were available at the last look and are not taken.
    #[must_use]
    pub const fn ready(&self) -> u16 {
        self.seen.wrapping_sub(self.next)
    }

    /// Asks the driver to notify about the next buffer that it makes available beyond those seen, and looks once more.
    /// True if there is something to take, of which no notification may come.
    pub fn want_notifications(&mut self) -> Result<bool, Violation> {
        if self.options.event_index {
            self.used.store16(used_entry(self.size), self.seen)?;
        } else {
            self.used.store16(0, 0)?;
        }
        fence(Ordering::SeqCst);
        self.look()
    }

    /// Tells the driver that notifications are of no use now. It may send some.
    pub fn refuse_notifications(&mut self) -> Result<(), Violation> {
        // With an event index it is enough to leave that behind: it is passed once in 65536 buffers.
        if !self.options.event_index {
            self.used.store16(0, NO_NOTIFY)?;
        }
        Ok(())
    }
}
