use crate::frames::BLOCK;
use crate::segment::{Segment, total};
use crate::virtio::queue::{Chain, MAX_SIZE, Options, Place, Queue, Violation};
use crate::virtio::testing::{Descriptor, TestGuest, TestQueue};
use crate::virtio::transfer;
use crate::vm::loader::RAM_BASE;
use proptest::prelude::*;
use std::collections::BTreeMap;

const ALL: Options = Options {
    indirect: true,
    event_index: true,
};
const NONE: Options = Options {
    indirect: false,
    event_index: false,
};

fn pair(size: u16, options: Options) -> (TestGuest, TestQueue, Queue) {
    let guest = TestGuest::new();
    let driver = TestQueue::new(&guest, size);
    let queue = Queue::new(guest.memory.clone(), &driver.place, options).unwrap();
    (guest, driver, queue)
}

fn bytes(list: &[Segment]) -> Vec<u8> {
    let mut bytes = vec![0; total(list) as usize];
    transfer::read(list, 0, &mut bytes).unwrap();
    bytes
}

proptest! {
    /// Chains arrive in order with the bytes the driver wrote; what the device writes arrives at the driver,
    /// in whatever order chains are given back; no descriptor is lost, over many rounds of the ring.
    #[test]
    fn chains_go_there_and_come_back(
        steps in proptest::collection::vec((1usize..5, 0usize..4, any::<bool>(), 0usize..8), 1..120),
        log in 2u32..5, event_index: bool,
    ) {
        let options = Options { event_index, ..ALL };
        let (guest, mut driver, mut queue) = pair(1 << log, options);
        let data = guest.allocate(1 << 20, 4096);
        let mut sent = std::collections::VecDeque::new();
        let mut held: Vec<u16> = Vec::new();
        let mut chain = Chain::default();
        for (serial, (readable, writable, indirect, back)) in steps.into_iter().enumerate() {
            let buffers: Vec<_> = (0..readable + writable)
                .map(|n| (data + serial as u64 * 4096 + n as u64 * 100, 1 + n as u32 * 7, n >= readable))
                .collect();
            if driver.free() >= buffers.len() && buffers.len() <= 1 << log {
                let text: Vec<u8> = buffers.iter().filter(|b| !b.2).flat_map(|&(at, len, _)| {
                    let text: Vec<u8> = (0..len).map(|n| (serial as u32 * 31 + n) as u8).collect();
                    guest.write(at, &text);
                    text
                }).collect();
                let head = if indirect {
                    driver.add_indirect(&guest, &buffers)
                } else {
                    driver.add(&guest, &buffers)
                };
                let room: u32 = buffers.iter().filter(|b| b.2).map(|b| b.1).sum();
                sent.push_back((head, text, room));
            }
            if back & 1 != 0 {
                while queue.pop(&mut chain).unwrap() {
                    let (head, text, room) = sent.pop_front().unwrap();
                    prop_assert_eq!(chain.head, head);
                    prop_assert_eq!(bytes(&chain.readable), text);
                    prop_assert_eq!(total(&chain.writable), u64::from(room));
                    held.push(head);
                }
                prop_assert!(sent.is_empty());
            }
            for _ in 0..back {
                if held.is_empty() { break; }
                let head = held.swap_remove(back % held.len());
                queue.push(head, head.into()).unwrap();
                let _ = queue.publish().unwrap();
                prop_assert_eq!(driver.take(&guest), Some((head, head.into())));
            }
            prop_assert_eq!(usize::from(queue.out()), held.len());
        }
    }

    /// A driver that sleeps until an interrupt, and notifies only when asked, never waits for ever.
    #[test]
    fn no_notification_is_lost(
        bursts in proptest::collection::vec((1u16..8, 1u16..8, 0u16..4), 1..300), event_index: bool,
    ) {
        let options = Options { event_index, ..NONE };
        let (guest, mut driver, mut queue) = pair(8, options);
        let data = guest.allocate(64, 16);
        let mut chain = Chain::default();
        let mut asleep = !queue.want_notifications().unwrap();
        for (adds, work, delay) in bursts {
            let old = driver.next;
            for _ in 0..adds {
                if driver.free() > 0 {
                    driver.add(&guest, &[(data, 64, false)]);
                }
            }
            let kicked = if event_index {
                driver.notifies(&guest, old)
            } else {
                guest.read16(driver.place.used) & 1 == 0
            };
            if driver.next != old && kicked {
                asleep = false;
            }
            prop_assert!(!asleep || driver.next == queue_next(&driver, &queue), "buffers, and the device sleeps");
            // The driver asks for an interrupt some way behind what it has seen.
            driver.want(&guest, driver.seen.wrapping_add(delay));
            if asleep {
                continue;
            }
            queue.refuse_notifications().unwrap();
            let before = guest.read16(driver.place.used + 2);
            for _ in 0..work {
                if !queue.pop(&mut chain).unwrap() {
                    asleep = !queue.want_notifications().unwrap();
                    break;
                }
                queue.push(chain.head, 0).unwrap();
            }
            let interrupt = queue.publish().unwrap();
            let after = guest.read16(driver.place.used + 2);
            let event = driver.seen.wrapping_add(delay);
            let passed = (0..after.wrapping_sub(before)).any(|n| before.wrapping_add(n) == event);
            if event_index {
                prop_assert_eq!(interrupt, passed);
            } else {
                prop_assert_eq!(interrupt, after != before);
            }
            while driver.take(&guest).is_some() {}
        }
    }

    /// Whatever bytes are in a guest's rings, tables and indices: a chain lies in its memory, there are never more
    /// out than the queue holds, each look ends, and nothing panics.
    #[test]
    fn garbage_ends_in_a_violation_or_in_a_chain_within_memory(
        words in proptest::collection::vec((0u64..600, any::<u8>()), 1..400),
        tables in proptest::collection::vec((0u16..16, 0u64..0x400, 0u32..300, 0u16..8, 0u16..20), 0..40),
        heads in proptest::collection::vec(0u16..18, 0..20),
        index: u16, indirect: bool, event_index: bool,
    ) {
        let (guest, mut driver, mut queue) = pair(16, Options { indirect, event_index });
        for (slot, address, len, flags, next) in tables {
            let address = driver.place.descriptors + address;
            driver.describe(&guest, slot, &Descriptor { address, len, flags, next });
        }
        for head in heads {
            driver.offer(&guest, head);
        }
        if index & 1 != 0 {
            guest.write16(driver.place.available + 2, index % 24);
        }
        for (at, byte) in words.into_iter().filter(|_| index & 2 != 0) {
            guest.write(driver.place.descriptors + at, &[byte]);
        }
        let mut chain = Chain::default();
        for round in 0..40 {
            match queue.pop(&mut chain) {
                Ok(true) => {}
                _ => break,
            }
            prop_assert!(queue.out() <= 16);
            prop_assert!(!(chain.readable.is_empty() && chain.writable.is_empty()));
            for segment in chain.readable.iter().chain(&chain.writable) {
                let mut byte = [0];
                let last = segment.pa + u64::from(segment.len) - 1;
                prop_assert!(crate::hw::pool_read(segment.pa, &mut byte).is_ok());
                prop_assert!(crate::hw::pool_read(last, &mut byte).is_ok());
            }
            if round & 1 != 0 {
                queue.push(chain.head, 1).unwrap();
                let _ = queue.publish().unwrap();
            }
        }
    }
}

/// The device's next available index, as the driver can know it.
fn queue_next(driver: &TestQueue, queue: &Queue) -> u16 {
    // All that was taken was given back at once.
    driver.seen.wrapping_add(queue.out())
}

/// One descriptor, made available, and what the queue says of it.
fn fault(options: Options, descriptors: &[Descriptor]) -> Violation {
    let (guest, mut driver, mut queue) = pair(4, options);
    for (n, descriptor) in descriptors.iter().enumerate() {
        driver.describe(&guest, n as u16, descriptor);
    }
    driver.offer(&guest, 0);
    queue.pop(&mut Chain::default()).unwrap_err()
}

const GOOD: Descriptor = Descriptor {
    address: RAM_BASE.0 + 0x2000,
    len: 64,
    flags: 0,
    next: 0,
};

#[test]
fn each_rule_that_is_broken_is_named() {
    let next = Descriptor { flags: 1, ..GOOD };
    assert_eq!(fault(ALL, &[next]), Violation::Long(4), "to itself");
    let to = |next, flags| Descriptor {
        next,
        flags,
        ..GOOD
    };
    assert_eq!(fault(ALL, &[to(1, 1), to(0, 1)]), Violation::Long(4));
    assert_eq!(fault(ALL, &[to(4, 1)]), Violation::Descriptor(4));
    assert_eq!(
        fault(ALL, &[to(u16::MAX, 1)]),
        Violation::Descriptor(u16::MAX)
    );
    assert_eq!(fault(ALL, &[to(1, 3), to(0, 0)]), Violation::Order);
    assert_eq!(
        fault(ALL, &[Descriptor { len: 0, ..GOOD }]),
        Violation::Empty
    );
    let large = Descriptor {
        len: u32::MAX,
        ..GOOD
    };
    assert_eq!(fault(ALL, &[large]), Violation::Large(u32::MAX));
    for (address, len) in [
        (0, 1),
        (RAM_BASE.0 - 1, 1),
        (TestGuest::end() - 1, 2),
        (TestGuest::end(), 1),
        (u64::MAX, 1),
        (u64::MAX - 1, 32 << 20),
        (RAM_BASE.0, 32 << 20),
    ] {
        let bad = Descriptor {
            address,
            len,
            ..GOOD
        };
        assert_eq!(fault(ALL, &[bad]), Violation::Buffer(address, len));
    }
}

#[test]
fn indirect_tables_are_taken_alone_whole_and_not_nested() {
    let table = |len| Descriptor {
        flags: 4,
        len,
        ..GOOD
    };
    assert_eq!(fault(NONE, &[table(16)]), Violation::Indirect);
    let with_next = Descriptor {
        flags: 5,
        len: 16,
        ..GOOD
    };
    assert_eq!(fault(ALL, &[with_next, GOOD]), Violation::Indirect);
    for len in [0, 8, 17, 16 * 5, u32::MAX] {
        assert_eq!(fault(ALL, &[table(len)]), Violation::IndirectLength(len));
    }
    let outside = Descriptor {
        address: TestGuest::end() - 16,
        ..table(32)
    };
    assert_eq!(
        fault(ALL, &[outside]),
        Violation::Buffer(TestGuest::end() - 16, 32)
    );
    // The table is the queue's own descriptor table: its first entry is an indirect descriptor again.
    let (guest, mut driver, mut queue) = pair(4, ALL);
    let own = Descriptor {
        address: driver.place.descriptors,
        ..table(64)
    };
    driver.describe(&guest, 0, &own);
    driver.offer(&guest, 0);
    assert_eq!(queue.pop(&mut Chain::default()), Err(Violation::Indirect));
}

#[test]
fn an_indirect_table_may_lie_anywhere_in_memory() {
    let (guest, mut driver, mut queue) = pair(8, ALL);
    let buffer = guest.allocate(64, 64);
    guest.write(buffer, b"readable");
    // Misaligned, and across the end of a block.
    for table in [
        RAM_BASE.0 + BLOCK - 16,
        RAM_BASE.0 + BLOCK - 24,
        RAM_BASE.0 + BLOCK - 3,
    ] {
        let entry = |address, len, flags, next| {
            Descriptor {
                address,
                len,
                flags,
                next,
            }
            .bytes()
        };
        guest.write(table, &entry(buffer, 8, 1, 1));
        guest.write(table + 16, &entry(buffer + 8, 5, 2, 0));
        driver.describe(
            &guest,
            0,
            &Descriptor {
                address: table,
                len: 32,
                flags: 4,
                next: 0,
            },
        );
        driver.offer(&guest, 0);
        let mut chain = Chain::default();
        assert_eq!(queue.pop(&mut chain), Ok(true));
        assert_eq!(bytes(&chain.readable), b"readable");
        assert_eq!(total(&chain.writable), 5);
        queue.push(chain.head, 0).unwrap();
    }
}

#[test]
fn an_index_too_far_ahead_and_too_many_buffers_are_refused() {
    let (guest, mut driver, mut queue) = pair(4, NONE);
    driver.describe(&guest, 0, &GOOD);
    guest.write16(driver.place.available + 2, 5);
    assert_eq!(
        queue.pop(&mut Chain::default()),
        Err(Violation::AvailableIndex(5))
    );
    let (guest, mut driver2, mut queue) = pair(4, NONE);
    driver2.describe(&guest, 0, &GOOD);
    for _ in 0..4 {
        driver2.offer(&guest, 0);
        assert_eq!(queue.pop(&mut Chain::default()), Ok(true));
    }
    driver2.offer(&guest, 0);
    assert_eq!(
        queue.pop(&mut Chain::default()),
        Err(Violation::TooManyBuffers)
    );
    driver = driver2;
    assert_eq!(driver.seen, 0);
}

#[test]
fn what_a_guest_changes_after_a_chain_was_taken_changes_nothing() {
    let (guest, mut driver, mut queue) = pair(4, ALL);
    let buffer = guest.allocate(64, 64);
    driver.add(&guest, &[(buffer, 64, true)]);
    let mut chain = Chain::default();
    assert_eq!(queue.pop(&mut chain), Ok(true));
    let before = chain.writable.clone();
    let elsewhere = Descriptor {
        address: 0,
        len: u32::MAX,
        flags: 7,
        next: 99,
    };
    (0..4).for_each(|n| driver.describe(&guest, n, &elsewhere));
    assert_eq!(chain.writable, before);
    assert_eq!(queue.push(chain.head, 64), Ok(()));
}

#[test]
fn queues_of_wrong_size_or_place_are_refused() {
    let guest = TestGuest::new();
    let good = TestQueue::new(&guest, 16).place;
    let refused = |place: Place| Queue::new(guest.memory.clone(), &place, ALL).unwrap_err();
    for size in [0, 3, 17, MAX_SIZE + 1, MAX_SIZE * 2, u16::MAX] {
        assert_eq!(
            refused(Place { size, ..good }),
            Violation::Size(size.into())
        );
    }
    let at = |descriptors| {
        refused(Place {
            descriptors,
            ..good
        })
    };
    assert_eq!(
        at(good.descriptors + 8),
        Violation::Place(good.descriptors + 8)
    );
    for ipa in [0, TestGuest::end(), TestGuest::end() - 16, !15] {
        assert_eq!(at(ipa), Violation::Place(ipa));
    }
    let used = TestGuest::end() - 4;
    assert_eq!(refused(Place { used, ..good }), Violation::Place(used));
    let used = good.used + 2;
    assert_eq!(refused(Place { used, ..good }), Violation::Place(used));
    let available = good.available + 1;
    assert_eq!(
        refused(Place { available, ..good }),
        Violation::Place(available)
    );
}

#[test]
fn rings_that_the_vm_does_not_share_are_a_violation_at_the_access() {
    let (guest, mut driver, mut queue) = pair(4, ALL);
    let buffer = guest.allocate(64, 4096);
    driver.add(&guest, &[(buffer, 64, true)]);
    guest.share(driver.place.available, false);
    let mut chain = Chain::default();
    assert_eq!(queue.pop(&mut chain), Err(Violation::NotShared));
    guest.share(driver.place.available, true);
    assert_eq!(queue.pop(&mut chain), Ok(true));
    guest.share(driver.place.used, false);
    assert_eq!(queue.push(chain.head, 0), Err(Violation::NotShared));
}

#[test]
fn chains_put_back_come_again() {
    let (guest, mut driver, mut queue) = pair(8, ALL);
    let buffer = guest.allocate(64, 64);
    let heads: Vec<_> = (0..5)
        .map(|_| driver.add(&guest, &[(buffer, 1, true)]))
        .collect();
    let mut chain = Chain::default();
    let mut take = |queue: &mut Queue| {
        assert_eq!(queue.pop(&mut chain), Ok(true));
        chain.head
    };
    assert_eq!(take(&mut queue), heads[0]);
    assert_eq!(take(&mut queue), heads[1]);
    assert_eq!(take(&mut queue), heads[2]);
    queue.put_back(2);
    let rest: Vec<_> = (1..5).map(|_| take(&mut queue)).collect();
    assert_eq!(rest, heads[1..]);
    queue.put_back(100);
    assert_eq!(queue.out(), 0);
    let seen: BTreeMap<_, _> = heads.iter().map(|h| (h, ())).collect();
    assert_eq!(seen.len(), 5);
}
