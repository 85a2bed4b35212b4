//! A small virtio-mmio driver (virtio 1.2 §4.2), which can be told to break every rule.
//!
//! Rings and buffers lie in one arena of pages; a protected VM shares it with the hypervisor first.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu::{self, mmio};
use crate::platform;
use crate::timer;

/// The first slot, and the distance from one to the next.
const SLOTS: u64 = 0x0a00_0000;
const STRIDE: u64 = 0x200;
/// INTID of the first slot.
const INTID: u32 = 48;

const PAGE: usize = 4096;
/// Pages that are shared, and one that is not.
const SHARED: usize = 32;

#[repr(C, align(4096))]
struct Arena(UnsafeCell<[[u8; PAGE]; SHARED + 1]>);
// SAFETY: reached through raw, volatile accesses only, by one test at a time and by devices.
unsafe impl Sync for Arena {}
static ARENA: Arena = Arena(UnsafeCell::new([[0; PAGE]; SHARED + 1]));
static READY: AtomicBool = AtomicBool::new(false);

/// pKVM guest interface: MEM_SHARE.
const MEM_SHARE: u64 = 0xc600_0003;

/// Registers.
pub(crate) mod reg {
    pub(crate) const DEVICE_FEATURES: u64 = 0x10;
    pub(crate) const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub(crate) const DRIVER_FEATURES: u64 = 0x20;
    pub(crate) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(crate) const QUEUE_SEL: u64 = 0x30;
    pub(crate) const QUEUE_SIZE: u64 = 0x38;
    pub(crate) const QUEUE_READY: u64 = 0x44;
    pub(crate) const QUEUE_NOTIFY: u64 = 0x50;
    pub(crate) const INTERRUPT_STATUS: u64 = 0x60;
    pub(crate) const INTERRUPT_ACK: u64 = 0x64;
    pub(crate) const STATUS: u64 = 0x70;
    pub(crate) const QUEUE_DESC: u64 = 0x80;
    pub(crate) const QUEUE_DRIVER: u64 = 0x90;
    pub(crate) const QUEUE_DEVICE: u64 = 0xa0;
    pub(crate) const CONFIG: u64 = 0x100;
}

/// VIRTIO_F_INDIRECT_DESC, _EVENT_IDX, _VERSION_1, _ACCESS_PLATFORM.
pub(crate) const F_INDIRECT: u64 = 1 << 28;
pub(crate) const F_VERSION_1: u64 = 1 << 32;
pub(crate) const F_ACCESS_PLATFORM: u64 = 1 << 33;

/// DEVICE_NEEDS_RESET.
const NEEDS_RESET: u32 = 64;

/// The arena's page `index`.
pub(crate) fn page(index: usize) -> u64 {
    ARENA.0.get() as u64 + (index * PAGE) as u64
}

/// A page that no device reaches, if the VM is protected.
pub(crate) fn private_page() -> u64 {
    page(SHARED)
}

/// Whether devices want VIRTIO_F_ACCESS_PLATFORM, as a protected VM's do.
pub(crate) fn share_arena() {
    if !READY.swap(true, Ordering::SeqCst) {
        for index in 0..SHARED {
            // An open VM has no such call, and needs none.
            cpu::hvc(MEM_SHARE, page(index), 0, 0);
        }
    }
}

/// Writes to memory that devices see.
pub(crate) fn store<T: Copy>(at: u64, value: T) {
    // SAFETY: `at` is in the arena; see `Arena`.
    unsafe { (at as *mut T).write_volatile(value) }
}

/// Reads memory that devices write.
pub(crate) fn load<T: Copy>(at: u64) -> T {
    // SAFETY: as for `store`; only plain numbers are read.
    unsafe { (at as *const T).read_volatile() }
}

/// Fills memory with zeros.
pub(crate) fn clear(at: u64, bytes: u64) {
    (at..at + bytes).step_by(8).for_each(|at| store(at, 0u64));
}

/// A device in a slot.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    base: u64,
    /// Its interrupt.
    pub(crate) intid: u32,
}

/// The device number `nth` of this type.
pub(crate) fn find(kind: u32, nth: usize) -> Option<Device> {
    share_arena();
    let device = |slot: u32| Device {
        base: SLOTS + STRIDE * u64::from(slot),
        intid: INTID + slot,
    };
    (0..32)
        .map(device)
        .filter(|d| d.get(0) == 0x7472_6976 && d.get(4) == 2 && d.get(8) == kind)
        .nth(nth)
}

impl Device {
    pub(crate) fn get(&self, register: u64) -> u32 {
        mmio::read32(self.base + register)
    }

    pub(crate) fn set(&self, register: u64, value: u32) {
        cpu::barrier();
        mmio::write32(self.base + register, value);
    }

    fn set64(&self, register: u64, value: u64) {
        self.set(register, value as u32);
        self.set(register + 4, (value >> 32) as u32);
    }

    pub(crate) fn features(&self) -> u64 {
        self.set(reg::DEVICE_FEATURES_SEL, 1);
        let high = u64::from(self.get(reg::DEVICE_FEATURES));
        self.set(reg::DEVICE_FEATURES_SEL, 0);
        high << 32 | u64::from(self.get(reg::DEVICE_FEATURES))
    }

    /// Reset, and the way up to FEATURES_OK with what is wanted of what is offered.
    pub(crate) fn negotiate(&self, wanted: u64) -> bool {
        self.set(reg::STATUS, 0);
        self.set(reg::STATUS, 1);
        self.set(reg::STATUS, 3);
        let features = self.features() & (wanted | F_VERSION_1 | F_ACCESS_PLATFORM);
        self.set(reg::DRIVER_FEATURES_SEL, 0);
        self.set(reg::DRIVER_FEATURES, features as u32);
        self.set(reg::DRIVER_FEATURES_SEL, 1);
        self.set(reg::DRIVER_FEATURES, (features >> 32) as u32);
        self.set(reg::STATUS, 11);
        self.get(reg::STATUS) & 8 != 0
    }

    /// Names queue `index` to the device.
    pub(crate) fn place(&self, index: u32, queue: &Queue) {
        self.set(reg::QUEUE_SEL, index);
        self.set(reg::QUEUE_SIZE, queue.size.into());
        self.set64(reg::QUEUE_DESC, queue.descriptors);
        self.set64(reg::QUEUE_DRIVER, queue.available);
        self.set64(reg::QUEUE_DEVICE, queue.used);
        self.set(reg::QUEUE_READY, 1);
    }

    pub(crate) fn ready(&self) {
        self.set(reg::STATUS, 15);
    }

    pub(crate) fn notify(&self, queue: u32) {
        self.set(reg::QUEUE_NOTIFY, queue);
    }

    /// Whether the device wants a reset.
    pub(crate) fn is_broken(&self) -> bool {
        self.get(reg::STATUS) & NEEDS_RESET != 0
    }
}

/// A descriptor.
#[derive(Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) len: u32,
    /// 1 next, 2 write, 4 indirect.
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    pub(crate) fn write(&self, at: u64) {
        store(at, self.address);
        store(at + 8, self.len);
        store(at + 12, self.flags);
        store(at + 14, self.next);
    }
}

/// The driver's side of a queue, in one page of the arena.
pub(crate) struct Queue {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) next: u16,
    pub(crate) seen: u16,
}

impl Queue {
    /// An empty queue in page `index` of the arena: at most 128 descriptors.
    pub(crate) fn new(index: usize, size: u16) -> Self {
        let base = page(index);
        clear(base, PAGE as u64);
        Self {
            size,
            descriptors: base,
            available: base + 0x800,
            used: base + 0xa00,
            next: 0,
            seen: 0,
        }
    }

    /// Writes descriptor `index`.
    pub(crate) fn describe(&self, index: u16, descriptor: &Descriptor) {
        descriptor.write(self.descriptors + 16 * u64::from(index));
    }

    /// Makes the chain that begins at `head` available.
    pub(crate) fn offer(&mut self, head: u16) {
        store(
            self.available + 4 + 2 * u64::from(self.next % self.size),
            head,
        );
        self.next = self.next.wrapping_add(1);
        cpu::barrier();
        store(self.available + 2, self.next);
        cpu::barrier();
    }

    /// One buffer in descriptor `index`.
    pub(crate) fn add(&mut self, index: u16, address: u64, len: u32, write: bool) {
        let descriptor = Descriptor {
            address,
            len,
            flags: u16::from(write) << 1,
            next: 0,
        };
        self.describe(index, &descriptor);
        self.offer(index);
    }

    /// The next used entry, if there is one: head and bytes written.
    pub(crate) fn take(&mut self) -> Option<(u32, u32)> {
        cpu::barrier();
        if load::<u16>(self.used + 2) == self.seen {
            return None;
        }
        cpu::barrier();
        let entry = self.used + 4 + 8 * u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        Some((load(entry), load(entry + 4)))
    }

    /// Waits up to two seconds for a used entry.
    pub(crate) fn wait(&mut self) -> Option<(u32, u32)> {
        let deadline = timer::now() + 2 * timer::frequency();
        loop {
            let entry = self.take();
            if entry.is_some() || timer::now() > deadline {
                return entry;
            }
        }
    }
}

/// The first address behind RAM.
pub(crate) fn end_of_ram() -> u64 {
    let (base, bytes) = platform::ram();
    base + bytes
}
