//! A hostile driver: registers, rings and memory of virtio devices, in any order.

use crate::rng::Rng;
use hostvisor::virtio::queue::Place;
use hostvisor::virtio::rng::Rng as Entropy;
use hostvisor::virtio::testing::{Descriptor, TestDevice, TestGuest, TestQueue};
use std::cell::RefCell;
use std::sync::Arc;

/// VIRTIO_F_VERSION_1.
pub(super) const VERSION_1: u64 = 1 << 32;
/// Both of VIRTIO_F_INDIRECT_DESC and VIRTIO_F_EVENT_IDX.
const RING_FEATURES: u64 = 3 << 28;
const STATUS: u64 = 0x70;

/// Most words written to a guest's memory by a step.
const BURST: u64 = 8;
/// Where rings and buffers are: a page.
pub(super) const PAGE: u64 = 0x4000_4000;
/// Where in it buffers are.
pub(super) const BUFFERS: u64 = PAGE + 0x800;
/// Descriptors of a queue, and bytes from one queue's rings to the next one's: two fit before the buffers.
pub(super) const ENTRIES: u16 = 16;
const RINGS: u64 = 0x400;

/// A guest's accesses to registers and its writes to rings, whatever they are: nothing panics, every call comes to
/// its end, a device that a well-behaved driver takes over after a reset works, and memory that is not the
/// guest's is never reached (the simulated memory has none).
pub fn virtio(bytes: &[u8]) {
    with_guest(|guest| {
        let mut rng = Rng::Bytes(bytes);
        let device = TestDevice::new(guest, false, |link| Arc::new(Entropy::new(link)));
        abuse(guest, &device, VERSION_1, &mut rng, |_, _: &mut [_; 1]| ());
        let [mut queue] = take_over(guest, &device, VERSION_1);
        queue.add(guest, &[(BUFFERS, 64, true)]);
        device.notify(0);
        assert!(!device.is_broken(), "a reset does not heal the device");
        assert!(queue.take(guest).is_some(), "the device does not come back");
    });
}

/// A guest with megabytes of memory: made once. Contents of an earlier input stay, as memory does.
pub(super) fn with_guest(run: impl FnOnce(&TestGuest)) {
    std::thread_local! {
        static GUEST: RefCell<TestGuest> = RefCell::new(TestGuest::new());
    }
    GUEST.with_borrow(run);
}

/// A hostile driver of a device with `N` queues, and `more` of it every now and then.
pub(super) fn abuse<const N: usize>(
    guest: &TestGuest,
    device: &TestDevice,
    features: u64,
    rng: &mut Rng<'_>,
    mut more: impl FnMut(&mut Rng<'_>, &mut [TestQueue; N]),
) {
    let base = PAGE;
    let mut queues = queues();
    let features = features | if rng.one_in(2) { RING_FEATURES } else { 0 };
    if !rng.one_in(8) {
        device.start(features, &queues.each_ref());
    }
    while !rng.is_exhausted() {
        match rng.below(10) {
            0 => device.set(4 * rng.below(128), rng.word() as u32),
            1 => {
                let (offset, size) = (rng.below(0x200), 1 << rng.below(4));
                let value = device.transport.read(offset, size);
                assert!(size == 8 || value >> (8 * size) == 0, "wider than asked");
                if rng.one_in(2) {
                    let _ = device.transport.write(offset, size, rng.word());
                }
            }
            2 => {
                for _ in 0..rng.below(BURST) {
                    guest.write16(base + rng.below(RINGS * N as u64), rng.word() as u16);
                }
            }
            3 | 4 => {
                let descriptor = Descriptor {
                    address: address(rng, base),
                    len: length(rng),
                    flags: rng.below(8) as u16,
                    next: rng.below(18) as u16,
                };
                let queue = rng.below(N as u64) as usize;
                queues[queue].describe(guest, rng.below(16) as u16, &descriptor);
            }
            5 => {
                let queue = rng.below(N as u64) as usize;
                queues[queue].offer(guest, rng.below(18) as u16);
            }
            6 => device.notify(rng.below(3) as u32),
            7 => guest.share(base, !rng.one_in(4)),
            _ => more(rng, &mut queues),
        }
    }
    guest.share(base, true);
}

/// A driver that keeps the rules resets the device and starts it anew.
pub(super) fn take_over<const N: usize>(
    guest: &TestGuest,
    device: &TestDevice,
    features: u64,
) -> [TestQueue; N] {
    device.set(STATUS, 0);
    let queues = queues();
    start(guest, device, features, &queues);
    queues
}

/// Starts a device with empty queues.
pub(super) fn start<const N: usize>(
    guest: &TestGuest,
    device: &TestDevice,
    features: u64,
    queues: &[TestQueue; N],
) {
    guest.write(PAGE, &[0; RINGS as usize].repeat(N));
    device.start(features, &queues.each_ref());
}

/// Queues one behind the other from [`PAGE`] on.
pub(super) fn queues<const N: usize>() -> [TestQueue; N] {
    std::array::from_fn(|n| {
        let base = PAGE + RINGS * n as u64;
        TestQueue::at(Place {
            size: ENTRIES,
            descriptors: base,
            available: base + 0x100,
            used: base + 0x200,
        })
    })
}

fn address(rng: &mut Rng<'_>, base: u64) -> u64 {
    match rng.below(8) {
        0 => rng.word(),
        1 => TestGuest::end() - rng.below(64),
        2 => base + rng.below(0x400),
        3 => 0x4000_0000 + (2 << 20) - rng.below(64),
        _ => base + 0x800 + rng.below(0x800),
    }
}

fn length(rng: &mut Rng<'_>) -> u32 {
    match rng.below(8) {
        0 => rng.word() as u32,
        1 => 16 * rng.below(20) as u32,
        _ => rng.below(300) as u32,
    }
}
