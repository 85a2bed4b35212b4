//! A guest to test devices with on the development host: memory, and a driver that keeps the rules unless told
//! otherwise.

use super::device::{Device, Line, Link};
use super::mmio::{Transport, Written};
use super::queue::Place;
use crate::frames::BLOCK;
use crate::hw::{self, TestRam};
use crate::segment::Segment;
use crate::vm::loader::RAM_BASE;
use crate::vm::memory::GuestMemory;
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// A guest's memory: two blocks, which do not adjoin.
#[derive(Debug)]
pub struct TestGuest {
    ram: TestRam,
    /// As devices have it.
    pub memory: Arc<GuestMemory>,
    next: AtomicU64,
}

impl Default for TestGuest {
    fn default() -> Self {
        Self::new()
    }
}

impl TestGuest {
    /// Zeros.
    #[must_use]
    pub fn new() -> Self {
        let ram = TestRam::new(3 * BLOCK);
        let blocks = [ram.base() + 2 * BLOCK, ram.base()];
        Self {
            memory: Arc::new(GuestMemory::new(&blocks)),
            ram,
            next: AtomicU64::new(RAM_BASE.0 + 0x1000),
        }
    }

    /// The first IPA behind its memory.
    #[must_use]
    pub const fn end() -> u64 {
        RAM_BASE.0 + 2 * BLOCK
    }

    fn pa(&self, ipa: u64) -> u64 {
        let offset = ipa - RAM_BASE.0;
        if offset < BLOCK {
            self.ram.base() + 2 * BLOCK + offset
        } else {
            self.ram.base() + offset - BLOCK
        }
    }

    /// True if all of the segment is the guest's.
    #[must_use]
    pub fn has(&self, segment: &Segment) -> bool {
        [self.ram.base(), self.ram.base() + 2 * BLOCK]
            .iter()
            .any(|&block| {
                segment.pa >= block && segment.pa + u64::from(segment.len) <= block + BLOCK
            })
    }

    /// Unused memory.
    pub fn allocate(&self, bytes: u64, align: u64) -> u64 {
        let mut at = 0;
        let _ = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                at = next.next_multiple_of(align);
                Some(at + bytes)
            });
        at
    }

    /// The guest's own read, which is never refused.
    #[must_use]
    pub fn read(&self, ipa: u64, bytes: usize) -> Vec<u8> {
        (ipa..ipa + bytes as u64)
            .map(|ipa| {
                let mut byte = [0];
                let _ = hw::pool_read(self.pa(ipa), &mut byte);
                byte[0]
            })
            .collect()
    }

    /// The guest's own write. What lies outside its memory is lost.
    pub fn write(&self, ipa: u64, bytes: &[u8]) {
        for (ipa, byte) in (ipa..).zip(bytes) {
            if (RAM_BASE.0..Self::end()).contains(&ipa) {
                let _ = hw::pool_write(self.pa(ipa), &[*byte]);
            }
        }
    }

    /// A 16-bit word.
    #[must_use]
    pub fn read16(&self, ipa: u64) -> u16 {
        u16::from_le_bytes(self.read(ipa, 2).try_into().unwrap_or_default())
    }

    /// A 16-bit word.
    pub fn write16(&self, ipa: u64, value: u16) {
        self.write(ipa, &value.to_le_bytes());
    }

    /// Lets devices reach a page, or not.
    pub fn share(&self, ipa: u64, shared: bool) {
        self.ram.reachable(self.pa(ipa), 1, shared);
    }
}

/// An interrupt line that is only looked at.
#[derive(Clone, Debug, Default)]
pub struct TestLine {
    /// Its level.
    pub level: Arc<AtomicBool>,
    /// How often it rose.
    pub edges: Arc<AtomicU32>,
    /// How often a device said that nothing is in flight any more.
    pub idle: Arc<AtomicU32>,
    /// How often a device said that it can go on.
    pub goes_on: Arc<AtomicU32>,
}

impl Line for TestLine {
    fn follow(&self, _intid: u32, pending: &AtomicU32, again: bool) {
        let level = pending.load(Ordering::SeqCst) != 0;
        let before = self.level.swap(level, Ordering::SeqCst);
        if level && (!before || again) {
            self.edges.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn idle(&self) {
        self.idle.fetch_add(1, Ordering::SeqCst);
    }

    fn go_on(&self, _intid: u32) {
        self.goes_on.fetch_add(1, Ordering::SeqCst);
    }
}

/// A descriptor as a driver writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// IPA.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// VIRTQ_DESC_F_*: 1 next, 2 write, 4 indirect.
    pub flags: u16,
    /// The next one.
    pub next: u16,
}

impl Descriptor {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (address, rest) = bytes.split_at_mut(8);
        let (len, rest) = rest.split_at_mut(4);
        let (flags, next) = rest.split_at_mut(2);
        address.copy_from_slice(&self.address.to_le_bytes());
        len.copy_from_slice(&self.len.to_le_bytes());
        flags.copy_from_slice(&self.flags.to_le_bytes());
        next.copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// The driver's side of a queue.
#[derive(Debug)]
pub struct TestQueue {
    /// Where it is.
    pub place: Place,
    free: Vec<u16>,
    /// Descriptors of each chain that is out, by its head.
    chains: Vec<Vec<u16>>,
    /// Available index.
    pub next: u16,
    /// Used index seen last.
    pub seen: u16,
}

impl TestQueue {
    /// A queue of `size` descriptors.
    #[must_use]
    pub fn new(guest: &TestGuest, size: u16) -> Self {
        let entries = u64::from(size);
        let place = Place {
            size,
            descriptors: guest.allocate(16 * entries, 16),
            available: guest.allocate(6 + 2 * entries, 2),
            used: guest.allocate(6 + 8 * entries, 4),
        };
        Self::at(place)
    }

    /// A queue at a place of the caller's choice.
    #[must_use]
    pub fn at(place: Place) -> Self {
        Self {
            place,
            free: (0..place.size).rev().collect(),
            chains: alloc::vec![Vec::new(); place.size.into()],
            next: 0,
            seen: 0,
        }
    }

    /// Descriptors that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Writes descriptor `index`.
    pub fn describe(&self, guest: &TestGuest, index: u16, descriptor: &Descriptor) {
        guest.write(
            self.place.descriptors + 16 * u64::from(index),
            &descriptor.bytes(),
        );
    }

    /// Makes buffers available: IPA, bytes, whether the device may write. Answers the head; there must be
    /// enough free descriptors.
    pub fn add(&mut self, guest: &TestGuest, buffers: &[(u64, u32, bool)]) -> u16 {
        let indices = self.free.split_off(self.free.len() - buffers.len());
        for (n, &(address, len, write)) in buffers.iter().enumerate() {
            let next = indices.get(n + 1).copied();
            let flags = u16::from(next.is_some()) | u16::from(write) << 1;
            let descriptor = Descriptor {
                address,
                len,
                flags,
                next: next.unwrap_or(0),
            };
            self.describe(guest, indices[n], &descriptor);
        }
        let head = indices[0];
        self.chains[usize::from(head)] = indices;
        self.offer(guest, head);
        head
    }

    /// The same through an indirect table.
    pub fn add_indirect(&mut self, guest: &TestGuest, buffers: &[(u64, u32, bool)]) -> u16 {
        let table = guest.allocate(16 * buffers.len() as u64, 16);
        for (n, &(address, len, write)) in buffers.iter().enumerate() {
            let last = n + 1 == buffers.len();
            let descriptor = Descriptor {
                address,
                len,
                flags: u16::from(!last) | u16::from(write) << 1,
                next: n as u16 + 1,
            };
            guest.write(table + 16 * n as u64, &descriptor.bytes());
        }
        let head = self.free.pop().unwrap_or(0);
        let descriptor = Descriptor {
            address: table,
            len: 16 * buffers.len() as u32,
            flags: 4,
            next: 0,
        };
        self.describe(guest, head, &descriptor);
        self.chains[usize::from(head)] = alloc::vec![head];
        self.offer(guest, head);
        head
    }

    /// Puts `head` into the available ring.
    pub fn offer(&mut self, guest: &TestGuest, head: u16) {
        let slot = u64::from(self.next % self.place.size);
        guest.write16(self.place.available + 4 + 2 * slot, head);
        self.next = self.next.wrapping_add(1);
        guest.write16(self.place.available + 2, self.next);
    }

    /// Asks to be interrupted when the used index passes `event`.
    pub fn want(&self, guest: &TestGuest, event: u16) {
        guest.write16(
            self.place.available + 4 + 2 * u64::from(self.place.size),
            event,
        );
    }

    /// True if the device wants a notification, by event index, for buffers since `old`.
    #[must_use]
    pub fn notifies(&self, guest: &TestGuest, old: u16) -> bool {
        let event = guest.read16(self.place.used + 4 + 8 * u64::from(self.place.size));
        self.next.wrapping_sub(event).wrapping_sub(1) < self.next.wrapping_sub(old)
    }

    /// Takes the next used entry: head and bytes written.
    pub fn take(&mut self, guest: &TestGuest) -> Option<(u16, u32)> {
        if guest.read16(self.place.used + 2) == self.seen {
            return None;
        }
        let slot = u64::from(self.seen % self.place.size);
        let entry = guest.read(self.place.used + 4 + 8 * slot, 8);
        self.seen = self.seen.wrapping_add(1);
        let head = u16::from_le_bytes([entry[0], entry[1]]);
        let written = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let chain = self.chains.get_mut(usize::from(head));
        self.free
            .extend(chain.map(core::mem::take).unwrap_or_default());
        Some((head, written))
    }
}

/// A device behind its registers, and its interrupt line.
pub struct TestDevice {
    /// The registers.
    pub transport: Transport,
    /// The line.
    pub line: TestLine,
}

impl TestDevice {
    /// What `make` makes.
    pub fn new<D: Device + 'static>(
        guest: &TestGuest,
        protected: bool,
        make: impl FnOnce(Arc<Link>) -> Arc<D>,
    ) -> Self {
        let line = TestLine::default();
        let link = Link::new("vm test: device".to_string(), 48, Box::new(line.clone()));
        let link = Arc::new(link);
        let device = make(link.clone());
        Self {
            transport: Transport::new(link, device, guest.memory.clone(), protected),
            line,
        }
    }

    /// Reads a register.
    #[must_use]
    pub fn get(&self, offset: u64) -> u32 {
        self.transport.read(offset, 4) as u32
    }

    /// Writes a register, and has the device do all that it leaves.
    pub fn set(&self, offset: u64, value: u32) {
        match self.transport.write(offset, 4, value.into()) {
            Written::More | Written::Interrupt => while self.transport.resume() {},
            Written::Done | Written::Draining => {}
        }
    }

    /// All features offered.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.set(0x14, 1);
        let high = u64::from(self.get(0x10)) << 32;
        self.set(0x14, 0);
        high | u64::from(self.get(0x10))
    }

    /// As far as FEATURES_OK. True if the device agrees.
    #[must_use]
    pub fn negotiate(&self, features: u64) -> bool {
        self.set(0x70, 0);
        self.set(0x70, 1);
        self.set(0x70, 3);
        for half in 0..2 {
            self.set(0x24, half);
            self.set(0x20, (features >> (32 * half)) as u32);
        }
        self.set(0x70, 11);
        self.get(0x70) & 8 != 0
    }

    /// Tells the device of a queue.
    pub fn place(&self, index: u32, place: &Place) {
        self.set(0x30, index);
        self.set(0x38, place.size.into());
        for (offset, ipa) in [
            (0x80, place.descriptors),
            (0x90, place.available),
            (0xa0, place.used),
        ] {
            self.set(offset, ipa as u32);
            self.set(offset + 4, (ipa >> 32) as u32);
        }
        self.set(0x44, 1);
    }

    /// The whole way to a live device.
    pub fn start(&self, features: u64, queues: &[&TestQueue]) {
        assert!(self.negotiate(features));
        for (index, queue) in queues.iter().enumerate() {
            self.place(index as u32, &queue.place);
        }
        self.set(0x70, 15);
    }

    /// Notifies queue `index`.
    pub fn notify(&self, index: u32) {
        self.set(0x50, index);
    }

    /// True if the device wants a reset.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.get(0x70) & 64 != 0
    }
}
