use crate::virtio::device::{F_ACCESS_PLATFORM, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};
use crate::virtio::rng::Rng;
use crate::virtio::testing::{TestDevice, TestGuest, TestQueue};
use crate::vm::loader::RAM_BASE;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use proptest::prelude::*;

fn rng(guest: &TestGuest, protected: bool) -> TestDevice {
    TestDevice::new(guest, protected, |link| Arc::new(Rng::new(link)))
}

#[test]
fn a_driver_that_keeps_the_rules_gets_entropy_and_an_interrupt() {
    let guest = TestGuest::new();
    let device = rng(&guest, false);
    assert_eq!(device.get(0), 0x7472_6976);
    assert_eq!((device.get(4), device.get(8)), (2, 4));
    assert_eq!(
        device.offered(),
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    );
    let mut queue = TestQueue::new(&guest, 8);
    device.start(F_VERSION_1, &[&queue]);
    assert_eq!(device.get(0x34), 16);
    let buffer = guest.allocate(64, 64);
    queue.add(&guest, &[(buffer, 64, true)]);
    device.notify(0);
    assert!(queue.take(&guest).is_some_and(|(_, written)| written == 64));
    assert_ne!(guest.read(buffer, 64), [0; 64]);
    assert!(device.line.level.load(Ordering::SeqCst));
    assert_eq!(device.get(0x60), 1);
    device.set(0x64, 1);
    assert_eq!(device.get(0x60), 0);
    assert!(!device.line.level.load(Ordering::SeqCst));
}

#[test]
fn buffers_offered_before_the_driver_is_ready_are_served_when_it_is() {
    let guest = TestGuest::new();
    let device = rng(&guest, false);
    let mut queue = TestQueue::new(&guest, 8);
    queue.add(&guest, &[(guest.allocate(8, 8), 8, true)]);
    assert!(device.negotiate(F_VERSION_1));
    device.place(0, &queue.place);
    device.notify(0);
    assert_eq!(queue.take(&guest), None, "not before DRIVER_OK");
    device.set(0x70, 15);
    assert!(queue.take(&guest).is_some());
}

#[test]
fn only_an_offered_set_with_all_that_is_required_is_agreed_to() {
    let guest = TestGuest::new();
    let (open, protected) = (rng(&guest, false), rng(&guest, true));
    assert!(open.negotiate(F_VERSION_1));
    assert!(!open.negotiate(0), "a legacy driver");
    assert!(
        !open.negotiate(F_VERSION_1 | F_ACCESS_PLATFORM),
        "not offered"
    );
    assert!(!open.negotiate(F_VERSION_1 | 1 << 63));
    assert!(!open.negotiate(F_VERSION_1 | 1));
    assert!(!protected.negotiate(F_VERSION_1));
    assert!(protected.negotiate(F_VERSION_1 | F_ACCESS_PLATFORM));
}

#[test]
fn a_driver_that_skips_negotiation_is_told_to_reset() {
    let guest = TestGuest::new();
    let device = rng(&guest, false);
    device.set(0x70, 7);
    assert!(device.is_broken());
    assert_eq!(device.get(0x70) & 4, 0);
    device.set(0x70, 0);
    assert_eq!(device.get(0x70), 0);
}

#[test]
fn bits_of_the_status_go_by_a_reset_only_and_needs_reset_is_not_the_drivers() {
    let guest = TestGuest::new();
    let device = rng(&guest, false);
    device.set(0x70, 3);
    device.set(0x70, 1);
    assert_eq!(device.get(0x70), 3);
    device.set(0x70, 64);
    assert_eq!(device.get(0x70), 3);
    device.set(0x70, 0x80);
    assert_eq!(device.get(0x70), 0x83);
}

#[test]
fn features_and_queues_of_a_live_device_do_not_change() {
    let guest = TestGuest::new();
    let device = rng(&guest, false);
    let mut queue = TestQueue::new(&guest, 8);
    device.start(F_VERSION_1, &[&queue]);
    device.set(0x30, 0);
    device.set(0x44, 0);
    device.set(0x38, 3);
    device.set(0x80, 0);
    device.set(0x20, u32::MAX);
    device.set(0x44, 1);
    queue.add(&guest, &[(guest.allocate(8, 8), 8, true)]);
    device.notify(0);
    assert!(queue.take(&guest).is_some());
}

#[test]
fn a_violation_stops_the_device_until_it_is_reset() {
    let guest = TestGuest::new();
    let device = rng(&guest, false);
    let mut queue = TestQueue::new(&guest, 8);
    device.start(F_VERSION_1, &[&queue]);
    queue.add(&guest, &[(0, 8, true)]);
    device.notify(0);
    assert!(device.is_broken());
    assert_eq!(device.get(0x60), 2, "a configuration interrupt says so");
    let good = guest.allocate(8, 8);
    queue.add(&guest, &[(good, 8, true)]);
    device.notify(0);
    assert_eq!(queue.take(&guest), None);
    // A second DRIVER_OK does not heal it.
    device.set(0x70, 15);
    device.notify(0);
    assert_eq!(queue.take(&guest), None);
    let mut queue = TestQueue::new(&guest, 8);
    device.start(F_VERSION_1, &[&queue]);
    assert_eq!(device.get(0x60), 0);
    queue.add(&guest, &[(good, 8, true)]);
    device.notify(0);
    assert!(!device.is_broken() && queue.take(&guest).is_some());
    assert_eq!(device.transport.link().violations(), 1);
}

#[test]
fn absent_queues_wrong_sizes_and_overlaps() {
    let guest = TestGuest::new();
    let device = rng(&guest, false);
    let mut queue = TestQueue::new(&guest, 8);
    device.start(F_VERSION_1, &[&queue]);
    for absent in [1, 2, 0xffff, u32::MAX] {
        device.notify(absent);
        device.set(0x30, absent);
        assert_eq!((device.get(0x34), device.get(0x44)), (0, 0));
        device.set(0x44, 1);
        assert_eq!(device.get(0x44), 0);
    }
    queue.add(&guest, &[(guest.allocate(8, 8), 8, true)]);
    device.notify(0);
    assert!(queue.take(&guest).is_some());
    for size in [0, 5, 32, 1024, 65536 + 8] {
        assert!(device.negotiate(F_VERSION_1));
        device.place(0, &queue.place);
        device.set(0x44, 0);
        device.set(0x38, size);
        device.set(0x44, 1);
        device.set(0x70, 15);
        assert!(device.is_broken(), "queue size {size}");
    }
}

#[test]
fn an_unshared_buffer_of_a_protected_vm_costs_that_device_only() {
    let guest = TestGuest::new();
    let device = rng(&guest, true);
    let mut queue = TestQueue::new(&guest, 8);
    device.start(F_VERSION_1 | F_ACCESS_PLATFORM, &[&queue]);
    let buffer = guest.allocate(64, 4096);
    guest.share(buffer, false);
    queue.add(&guest, &[(buffer, 64, true)]);
    device.notify(0);
    assert!(device.is_broken());
    guest.share(buffer, true);
    assert_eq!(guest.read(buffer, 64), [0; 64]);
}

#[test]
fn an_interrupt_that_comes_while_another_is_acknowledged_rises_again() {
    let guest = TestGuest::new();
    let device = rng(&guest, false);
    let mut queue = TestQueue::new(&guest, 8);
    device.start(F_VERSION_1, &[&queue]);
    queue.add(&guest, &[(guest.allocate(8, 8), 8, true)]);
    device.notify(0);
    let edges = || device.line.edges.load(Ordering::SeqCst);
    assert_eq!(edges(), 1);
    // The handler has read 1; the device breaks before it acknowledges that.
    queue.add(&guest, &[(0, 8, true)]);
    device.notify(0);
    device.set(0x64, 1);
    assert_eq!(device.get(0x60), 2);
    assert_eq!(edges(), 2, "an edge for what is left");
    device.set(0x64, 3);
    assert!(!device.line.level.load(Ordering::SeqCst));
}

proptest! {
    /// Any accesses at all: no panic, and identity registers stay.
    #[test]
    fn any_access_is_survived(accesses in proptest::collection::vec(
        (prop_oneof![0u64..0x200, (0u64..64).prop_map(|n| n * 4)], prop_oneof![Just(4u64), Just(1), Just(2), Just(8)],
         prop_oneof![any::<u64>(), 0u64..16, (RAM_BASE.0..RAM_BASE.0 + 0x10000)], any::<bool>()), 1..200,
    )) {
        let guest = TestGuest::new();
        let device = rng(&guest, false);
        for (offset, size, value, write) in accesses {
            if write {
                let _ = device.transport.write(offset, size, value);
            } else {
                let read = device.transport.read(offset, size);
                prop_assert!(size == 8 || read >> (8 * size) == 0);
            }
        }
        prop_assert_eq!((device.get(0), device.get(4), device.get(8)), (0x7472_6976, 2, 4));
    }
}
