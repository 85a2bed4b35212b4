use crate::hw;
use crate::net::header::{F_NEEDS_CSUM, GSO_TCPV4};
use crate::net::switch::Switch;
use crate::net::{MAX_FRAME, NetHeader};
use crate::virtio::device::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};
use crate::virtio::mmio::Written;
use crate::virtio::net::Net;
use crate::virtio::testing::{TestDevice, TestGuest, TestQueue};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use proptest::prelude::*;

const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const HOST_TSO4: u64 = 1 << 11;
const MERGEABLE: u64 = 1 << 15;
const PLAIN: u64 = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC;
const FULL: u64 = PLAIN | MERGEABLE | CSUM | GUEST_CSUM | GUEST_TSO4 | HOST_TSO4;

/// A guest with one interface.
struct Peer {
    guest: TestGuest,
    device: TestDevice,
    receive: TestQueue,
    transmit: TestQueue,
    /// By head: where the buffer is and how large.
    buffers: std::collections::BTreeMap<u16, (u64, u32)>,
    mergeable: bool,
}

const fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

impl Peer {
    fn new(switch: &Arc<Switch>, n: u8, features: u64, protected: bool) -> Self {
        let guest = TestGuest::new();
        let device = TestDevice::new(&guest, protected, |link| {
            Net::new(link, mac(n), switch.clone())
        });
        let (receive, transmit) = (TestQueue::new(&guest, 128), TestQueue::new(&guest, 128));
        let platform = if protected { 1 << 33 } else { 0 };
        device.start(features | platform, &[&receive, &transmit]);
        Self {
            guest,
            device,
            receive,
            transmit,
            buffers: std::collections::BTreeMap::new(),
            mergeable: features & MERGEABLE != 0,
        }
    }

    /// Makes receive buffers available, and notifies if the device asks for it.
    fn offer(&mut self, number: usize, bytes: u32) {
        let old = self.receive.next;
        for _ in 0..number.min(self.receive.free()) {
            let at = self.guest.allocate(bytes.into(), 4096);
            let head = self.receive.add(&self.guest, &[(at, bytes, true)]);
            self.buffers.insert(head, (at, bytes));
        }
        if self.receive.next != old && self.receive.notifies(&self.guest, old) {
            self.device.notify(0);
        }
    }

    /// Sends a frame in pieces, without notification.
    fn queue(&mut self, header: &NetHeader, frame: &[u8], cut: usize) -> u64 {
        let at = self.guest.allocate(12 + frame.len() as u64, 4096);
        self.guest.write(at, &header.bytes());
        self.guest.write(at + 12, frame);
        let all = 12 + frame.len() as u32;
        let cut = (cut as u32).clamp(1, all - 1);
        self.transmit.add(
            &self.guest,
            &[(at, cut, false), (at + u64::from(cut), all - cut, false)],
        );
        at
    }

    fn send(&mut self, header: &NetHeader, frame: &[u8]) {
        self.queue(header, frame, 12);
        self.device.notify(1);
        while self.transmit.take(&self.guest).is_some() {}
    }

    /// The next frame received.
    fn take(&mut self) -> Option<(NetHeader, Vec<u8>)> {
        let mut bytes = Vec::new();
        let mut left = 1;
        while left != 0 {
            let (head, written) = self.receive.take(&self.guest)?;
            let (at, size) = self.buffers.remove(&head).unwrap();
            assert!(written <= size);
            bytes.extend(self.guest.read(at, written as usize));
            if left == 1 && bytes.len() == written as usize && self.mergeable {
                left = u16::from_le_bytes([bytes[10], bytes[11]]);
            }
            left -= 1;
        }
        let header = NetHeader::read(bytes.first_chunk().unwrap());
        Some((header, bytes.split_off(12)))
    }

    fn counter(&self, name: &str) -> u64 {
        let counters = self.device.transport.device().counters();
        counters.into_iter().find(|c| c.0 == name).unwrap().1
    }
}

fn frame(to: u8, from: u8, len: usize, fill: u8) -> Vec<u8> {
    let mut bytes = [mac(to), mac(from)].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.extend((bytes.len()..len).map(|n| fill ^ n as u8));
    bytes
}

fn pair(a: u64, b: u64) -> (Peer, Peer) {
    let switch = Arc::new(Switch::new("test"));
    (
        Peer::new(&switch, 1, a, false),
        Peer::new(&switch, 2, b, false),
    )
}

proptest! {
    /// Frames of any size, into buffers of any size, offered whenever: what arrives is what was sent, in order; what
    /// does not arrive is counted; nobody's device breaks.
    #[test]
    fn frames_arrive_whole_in_order_or_are_counted(
        steps in proptest::collection::vec((0u8..3, 14usize..5000, 0usize..30, 0u32..4), 1..60), mergeable: bool,
    ) {
        let features = if mergeable { FULL } else { PLAIN };
        let (mut a, mut b) = pair(FULL, features);
        let mut sent = std::collections::VecDeque::new();
        let mut arrived = 0;
        for (serial, (action, len, number, size)) in steps.into_iter().enumerate() {
            if action == 0 {
                let size = if mergeable { [64, 256, 1536, 4096][size as usize] } else { 1526 + 2000 * size };
                b.offer(number, size);
            } else {
                let bytes = frame(2, 1, len, serial as u8);
                a.send(&NetHeader::default(), &bytes);
                sent.push_back(bytes);
            }
            while let Some((header, bytes)) = b.take() {
                prop_assert_eq!((header.flags, header.gso_type), (0, 0));
                // What is missing in between was dropped.
                while sent.front() != Some(&bytes) {
                    prop_assert!(sent.pop_front().is_some(), "a frame that was not sent");
                }
                sent.pop_front();
                arrived += 1;
            }
            prop_assert!(!a.device.is_broken() && !b.device.is_broken());
        }
        prop_assert_eq!(b.counter("packets received"), arrived);
        // All else is dropped, or waits, which more buffers show.
        for _ in 0..40 {
            b.offer(60, 8192);
            while b.take().is_some() { arrived += 1; }
        }
        prop_assert_eq!(arrived + b.counter("packets dropped"), a.counter("packets sent"));
    }
}

#[test]
fn frames_wait_for_buffers_which_are_then_asked_for() {
    let (mut a, mut b) = pair(FULL, FULL);
    for n in 0..20 {
        a.send(&NetHeader::default(), &frame(2, 1, 1000, n));
    }
    assert!(b.take().is_none());
    b.offer(7, 1536);
    for n in 0..7 {
        assert_eq!(b.take().unwrap().1, frame(2, 1, 1000, n));
    }
    assert!(b.take().is_none());
    b.offer(40, 1536);
    for n in 7..20 {
        assert_eq!(b.take().unwrap().1, frame(2, 1, 1000, n));
    }
    // The rest of the buffers is there already: nothing more is to be told.
    let before = b.receive.next;
    a.send(&NetHeader::default(), &frame(2, 1, 60, 99));
    assert_eq!(b.take().unwrap().1, frame(2, 1, 60, 99));
    b.receive
        .add(&b.guest, &[(b.guest.allocate(1536, 4096), 1536, true)]);
    assert!(!b.receive.notifies(&b.guest, before));
}

#[test]
fn a_backlog_is_bounded() {
    let (mut a, mut b) = pair(FULL, FULL);
    for n in 0..200 {
        a.send(&NetHeader::default(), &frame(2, 1, 1500, n as u8));
    }
    let kept = 200 - b.counter("packets dropped");
    assert!((80..=90).contains(&kept), "{kept} of 128 KiB");
    assert_eq!(a.counter("packets sent"), 200);
    let mut arrived = 0;
    for _ in 0..20 {
        b.offer(30, 1536);
        while b.take().is_some() {
            arrived += 1;
        }
    }
    assert_eq!(arrived, kept);
}

#[test]
fn nothing_is_kept_while_the_heap_is_low() {
    let (mut a, mut b) = pair(FULL, FULL);
    let send = |a: &mut Peer, n| a.send(&NetHeader::default(), &frame(2, 1, 60, n));
    send(&mut a, 1);
    hw::tests::set_heap_used(80);
    send(&mut a, 2);
    assert_eq!(b.counter("packets dropped"), 1);
    hw::tests::set_heap_used(70);
    send(&mut a, 3);
    b.offer(4, 1536);
    for n in [1, 3] {
        assert_eq!(b.take().unwrap().1, frame(2, 1, 60, n));
    }
    // What finds a buffer needs no memory.
    hw::tests::set_heap_used(100);
    send(&mut a, 4);
    assert_eq!(b.take().unwrap().1, frame(2, 1, 60, 4));
}

#[test]
fn one_notification_sends_all_that_is_queued() {
    let (mut a, mut b) = pair(FULL, FULL);
    b.offer(120, 1536);
    for n in 0..60 {
        a.queue(
            &NetHeader::default(),
            &frame(2, 1, 100, n),
            12 + n as usize % 20,
        );
    }
    a.device.notify(1);
    for n in 0..60 {
        assert!(a.transmit.take(&a.guest).is_some());
        assert_eq!(b.take().unwrap().1, frame(2, 1, 100, n));
    }
    assert!(b.device.line.level.load(Ordering::SeqCst));
}

/// A pair, and what notifying without the look that follows does to the sender: an interrupt is left, and none is there.
fn sends(features: u64) -> (Peer, Peer, impl Fn(&mut Peer, u8)) {
    let (a, mut b) = pair(features, FULL);
    b.offer(100, 1536);
    (a, b, |a: &mut Peer, n| {
        a.queue(&NetHeader::default(), &frame(2, 1, 60, n), 12);
        let written = a.device.transport.write(0x50, 4, 1);
        assert_eq!(written, Written::Interrupt);
        assert_eq!(a.device.get(0x60), 0);
    })
}

#[test]
fn the_interrupt_for_what_was_sent_comes_once_and_later() {
    for features in [FULL, FULL & !F_EVENT_IDX] {
        let (mut a, mut b, send) = sends(features);
        for n in 0..3 {
            send(&mut a, n);
            assert_eq!(b.take().unwrap().1, frame(2, 1, 60, n), "delivered at once");
        }
        assert!(!a.device.transport.resume());
        assert_eq!(a.device.get(0x60), 1);
        assert!(a.device.line.level.load(Ordering::SeqCst));
        a.device.set(0x64, 1);
        assert!(!a.device.transport.resume());
        assert_eq!(a.device.get(0x60), 0, "there is nothing new");
    }
}

#[test]
fn a_driver_that_has_seen_what_was_sent_gets_no_interrupt_for_it() {
    let (mut a, _b, send) = sends(FULL);
    for n in 0..3 {
        send(&mut a, n);
        assert!(a.transmit.take(&a.guest).is_some());
        a.transmit.want(&a.guest, a.transmit.seen);
    }
    assert!(!a.device.transport.resume());
    assert_eq!(a.device.get(0x60), 0);
    // The next one is one too many.
    send(&mut a, 3);
    assert!(!a.device.transport.resume());
    assert_eq!(a.device.get(0x60), 1);
}

#[test]
fn a_driver_that_wants_no_interrupt_is_not_asked_again() {
    for features in [FULL, FULL & !F_EVENT_IDX] {
        let (mut a, _b) = pair(features, FULL);
        // An index that is not passed, or VIRTQ_AVAIL_F_NO_INTERRUPT.
        a.transmit.want(&a.guest, 100);
        a.guest.write16(a.transmit.place.available, 1);
        a.queue(&NetHeader::default(), &frame(2, 1, 60, 0), 12);
        assert_eq!(a.device.transport.write(0x50, 4, 1), Written::Done);
        a.guest.write16(a.transmit.place.available, 0);
        assert!(!a.device.transport.resume());
        assert_eq!(a.device.get(0x60), 0);
    }
}

#[test]
fn a_notification_is_not_lost_while_another_cpu_interrupts() {
    let (mut a, _b) = pair(FULL, FULL);
    let at = a.guest.allocate(4096, 4096);
    a.guest.write(at + 12, &frame(2, 1, 60, 0));
    let Peer {
        guest,
        device,
        transmit: queue,
        ..
    } = &mut a;
    let notify = || {
        if device.transport.write(0x50, 4, 1) == Written::Interrupt {
            assert!(!device.transport.resume());
        }
    };
    const ROUNDS: u32 = 30_000;
    let (begun, ended) = (AtomicU32::new(0), AtomicU32::new(0));
    let reach = |mark: &AtomicU32, round| {
        while mark.load(Ordering::SeqCst) < round {
            core::hint::spin_loop();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                reach(&begun, round);
                (0..50).for_each(|_| assert!(!device.transport.resume()));
                ended.store(round, Ordering::SeqCst);
            }
        });
        let mut lost = 0;
        for round in 1..=ROUNDS {
            queue.want(guest, queue.seen);
            queue.add(guest, &[(at, 72, false)]);
            begun.store(round, Ordering::SeqCst);
            notify();
            reach(&ended, round);
            lost += u32::from(queue.take(guest).is_none() || device.get(0x60) != 1);
            device.set(0x64, 1);
        }
        assert_eq!(lost, 0);
    });
}

#[test]
fn a_reset_forgets_an_interrupt_that_was_left() {
    let (mut a, _b, send) = sends(FULL);
    send(&mut a, 0);
    a.device.set(0x70, 0);
    assert!(!a.device.transport.resume());
    assert_eq!(a.device.get(0x60), 0);
}

#[test]
fn a_driver_whose_ring_cannot_be_read_when_it_is_asked_is_broken() {
    let switch = Arc::new(Switch::new("test"));
    let mut a = Peer::new(&switch, 1, FULL, true);
    a.queue(&NetHeader::default(), &frame(2, 1, 60, 0), 12);
    let written = a.device.transport.write(0x50, 4, 1);
    assert_eq!(written, Written::Interrupt);
    a.guest.share(a.transmit.place.available, false);
    assert!(!a.device.transport.resume());
    assert!(a.device.is_broken());
}

#[test]
fn who_sends_more_than_goes_at_once_is_interrupted_at_once() {
    let (mut a, mut b) = pair(FULL, FULL);
    b.offer(120, 1536);
    for n in 0..64 {
        a.queue(&NetHeader::default(), &frame(2, 1, 60, n), 12);
    }
    assert_eq!(a.device.transport.write(0x50, 4, 1), Written::More);
    assert_eq!(a.device.get(0x60), 1);
    a.device.set(0x64, 1);
    // What is left then has its interrupt with the rest.
    while a.transmit.take(&a.guest).is_some() {}
    a.transmit.want(&a.guest, 64);
    a.queue(&NetHeader::default(), &frame(2, 1, 60, 64), 12);
    assert!(!a.device.transport.resume());
    assert_eq!(a.device.get(0x60), 1);
}

#[test]
fn a_large_segment_goes_whole_to_who_takes_it_and_in_packets_to_who_does_not() {
    for (features, packets) in [
        (FULL, 1),
        (PLAIN | MERGEABLE, 7),
        (PLAIN | MERGEABLE | GUEST_CSUM, 7),
    ] {
        let (mut a, mut b) = pair(FULL, features);
        b.offer(100, 4096);
        let mut bytes = frame(2, 1, 14, 0);
        bytes[12..14].copy_from_slice(&[8, 0]);
        bytes.extend([
            0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        bytes.extend([
            0, 80, 0, 81, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0,
        ]);
        bytes.extend(vec![7; 9000]);
        let header = NetHeader {
            flags: F_NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 54,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
            num_buffers: 0,
        };
        a.send(&header, &bytes);
        let mut payload = 0;
        for n in 0..packets {
            let (header, packet) = b.take().unwrap_or_else(|| panic!("packet {n}"));
            payload += packet.len() - 54;
            assert_eq!(header.gso_type != 0, packets == 1);
        }
        assert_eq!(payload, 9000);
        assert!(b.take().is_none());
    }
}

#[test]
fn the_largest_frame_arrives_and_a_larger_one_is_refused() {
    let (mut a, mut b) = pair(FULL, FULL);
    b.offer(60, 4096);
    a.send(&NetHeader::default(), &frame(2, 1, MAX_FRAME, 5));
    assert_eq!(b.take().unwrap().1.len(), MAX_FRAME);
    a.send(&NetHeader::default(), &frame(2, 1, MAX_FRAME + 1, 5));
    a.send(&NetHeader::default(), &frame(2, 1, 14, 5)[..10]);
    assert!(b.take().is_none());
    assert_eq!(a.counter("packets refused"), 2);
    assert!(!a.device.is_broken());
}

/// Sender and receiver of a frame, each protected, and whose page cannot be reached.
fn blamed(hide_sender: bool) -> (bool, bool) {
    let switch = Arc::new(Switch::new("test"));
    let (mut a, mut b) = (
        Peer::new(&switch, 1, FULL, true),
        Peer::new(&switch, 2, FULL, true),
    );
    b.offer(4, 4096);
    let at = a.queue(&NetHeader::default(), &frame(2, 1, 6000, 1), 12);
    if hide_sender {
        // Not the first page, with the headers: the copy itself fails.
        a.guest.share(at + 4096, false);
    } else {
        let places: Vec<_> = b.buffers.values().copied().collect();
        places
            .into_iter()
            .for_each(|(at, _)| b.guest.share(at, false));
    }
    a.device.notify(1);
    (a.device.is_broken(), b.device.is_broken())
}

#[test]
fn who_does_not_share_is_to_blame_and_nobody_else() {
    assert_eq!(blamed(true), (true, false));
    assert_eq!(blamed(false), (false, true));
}

#[test]
fn a_sender_that_fails_takes_no_buffers_from_its_receiver() {
    let switch = Arc::new(Switch::new("test"));
    let mut a = Peer::new(&switch, 1, FULL, true);
    let (mut b, mut c) = (
        Peer::new(&switch, 2, FULL, false),
        Peer::new(&switch, 3, FULL, false),
    );
    b.offer(2, 4096);
    let at = a.queue(&NetHeader::default(), &frame(2, 1, 6000, 1), 12);
    a.guest.share(at + 4096, false);
    a.device.notify(1);
    assert!(b.take().is_none());
    c.send(&NetHeader::default(), &frame(2, 3, 6000, 2));
    assert_eq!(b.take().unwrap().1, frame(2, 3, 6000, 2));
}

#[test]
fn a_spoofed_source_and_a_lying_header_are_counted() {
    let (mut a, mut b) = pair(FULL, FULL);
    b.offer(4, 4096);
    a.send(&NetHeader::default(), &frame(2, 2, 100, 0));
    let lying = NetHeader {
        flags: F_NEEDS_CSUM,
        csum_start: 99,
        csum_offset: 0,
        ..NetHeader::default()
    };
    a.send(&lying, &frame(2, 1, 100, 0));
    assert!(b.take().is_none());
    assert_eq!(
        (a.counter("packets refused"), a.counter("packets sent")),
        (2, 0)
    );
    assert!(!a.device.is_broken());
}

#[test]
fn receive_buffers_that_are_none_break_their_own_device() {
    for buffer in [
        [(0x1000, 4096, false)],
        [(0x1000, 20, true)],
        [(u64::MAX - 5000, 4096, true)],
    ] {
        let (mut a, mut b) = pair(FULL, FULL);
        let [(at, len, write)] = buffer;
        let at = if at < 1 << 40 {
            b.guest.allocate(4096, 4096)
        } else {
            at
        };
        b.receive.add(&b.guest, &[(at, len, write)]);
        a.send(&NetHeader::default(), &frame(2, 1, 100, 0));
        assert_eq!((a.device.is_broken(), b.device.is_broken()), (false, true));
        // And the sender goes on.
        a.send(&NetHeader::default(), &frame(2, 1, 100, 0));
        assert_eq!(a.counter("packets sent"), 2);
    }
}

#[test]
fn a_device_that_waits_for_a_reset_receives_nothing() {
    let (mut a, mut b) = pair(FULL, FULL);
    b.offer(4, 4096);
    let at = b.guest.allocate(4096, 4096);
    b.transmit.add(&b.guest, &[(at, 100, true)]);
    b.device.notify(1);
    assert!(b.device.is_broken());
    a.send(&NetHeader::default(), &frame(2, 1, 100, 0));
    assert!(b.take().is_none());
    assert_eq!(b.counter("packets dropped"), 1);
}

/// Else its sender would have to look through 64 of them, each of as many pieces as the queue has descriptors.
#[test]
fn receive_buffers_in_more_pieces_than_any_driver_uses_break_their_own_device() {
    for (pieces, broken) in [(40, false), (42, true)] {
        let (mut a, mut b) = pair(FULL, FULL);
        let at = b.guest.allocate(4096, 4096);
        let pieces: Vec<_> = (0..pieces).map(|n| (at + 64 * n, 64, true)).collect();
        b.receive.add(&b.guest, &pieces);
        a.send(&NetHeader::default(), &frame(2, 1, 100, 0));
        assert_eq!(b.device.is_broken(), broken);
        assert_eq!(b.receive.take(&b.guest).is_some(), !broken);
        assert!(!a.device.is_broken());
    }
}

#[test]
fn a_broadcast_is_paid_for_by_its_sender_as_often_as_it_is_delivered() {
    let switch = Arc::new(Switch::new("test"));
    let mut a = Peer::new(&switch, 1, FULL, false);
    let others: Vec<_> = (2..10)
        .map(|n| Peer::new(&switch, n, FULL, false))
        .collect();
    let mut everybody = frame(0, 1, 60_000, 0);
    everybody[..6].fill(0xff);
    for _ in 0..3 {
        a.queue(&NetHeader::default(), &everybody, 12);
    }
    // Eight receivers' 60 KB are all that is done in one go.
    assert_eq!(a.device.transport.write(0x50, 4, 1), Written::More);
    assert_eq!(a.counter("packets sent"), 1);
    drop(others);
}

#[test]
fn tiny_receive_buffers_cost_their_owner_the_frame_only() {
    let (mut a, mut b) = pair(FULL, FULL);
    b.offer(128, 26);
    a.send(&NetHeader::default(), &frame(2, 1, 9000, 0));
    assert!(b.take().is_none());
    assert_eq!(b.counter("packets dropped"), 1);
    a.send(&NetHeader::default(), &frame(2, 1, 60, 3));
    assert_eq!(b.take().unwrap().1, frame(2, 1, 60, 3));
}

/// Found by fuzzing.
#[test]
fn a_frame_larger_than_a_whole_ring_of_buffers_holds_up_nothing() {
    let (mut a, mut b) = pair(FULL, FULL);
    b.receive = TestQueue::new(&b.guest, 16);
    b.device.start(FULL, &[&b.receive, &b.transmit]);
    b.offer(16, 2048);
    a.send(&NetHeader::default(), &frame(2, 1, 16 * 2048 - 12, 0));
    assert_eq!(b.take().unwrap().1.len(), 16 * 2048 - 12);
    b.offer(16, 2048);
    a.send(&NetHeader::default(), &frame(2, 1, 16 * 2048 - 11, 0));
    assert!(b.take().is_none());
    assert_eq!(b.counter("packets dropped"), 1);
    a.send(&NetHeader::default(), &frame(2, 1, 60, 3));
    assert_eq!(b.take().unwrap().1, frame(2, 1, 60, 3));
}

#[test]
fn features_that_depend_on_others_are_refused_alone() {
    let switch = Arc::new(Switch::new("test"));
    let peer = Peer::new(&switch, 1, PLAIN, false);
    assert!(!peer.device.negotiate(PLAIN | HOST_TSO4));
    assert!(!peer.device.negotiate(PLAIN | GUEST_TSO4));
    assert!(!peer.device.negotiate(PLAIN | GUEST_CSUM | HOST_TSO4));
    assert!(peer.device.negotiate(PLAIN | CSUM | HOST_TSO4));
}

#[test]
fn two_interfaces_with_one_address_and_an_end() {
    let (mut a, mut b) = pair(FULL, FULL);
    let status = |peer: &Peer| peer.device.transport.read(0x106, 2);
    assert_eq!(status(&b), 1);
    b.offer(4, 4096);
    b.device.transport.device().close();
    assert_eq!(status(&b), 0);
    a.send(&NetHeader::default(), &frame(2, 1, 100, 0));
    assert!(b.take().is_none());
    let switch = Arc::new(Switch::new("test"));
    let first = Peer::new(&switch, 1, FULL, false);
    let mut second = Peer::new(&switch, 1, FULL, false);
    assert_eq!((status(&first), status(&second)), (1, 0));
    second.send(&NetHeader::default(), &frame(9, 1, 100, 0));
    assert_eq!(second.counter("packets refused"), 1);
}
