//! A hostile driver of a network interface, and a guest at the same switch that keeps the rules.

use super::virtio::{BUFFERS, ENTRIES, PAGE, VERSION_1, abuse, queues, start, take_over};
use crate::rng::Rng;
use hostvisor::net::feature::{
    CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG_RXBUF, takes,
};
use hostvisor::net::header::{F_NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, LEN};
use hostvisor::net::switch::Switch;
use hostvisor::net::{MAX_FRAME, NetHeader};
use hostvisor::virtio::net::Net;
use hostvisor::virtio::testing::{Descriptor, TestDevice, TestGuest, TestQueue};
use std::cell::RefCell;
use std::sync::Arc;

/// Whose interface it is: the hostile guest's, the other one's, nobody's.
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 3];
const GROUP: [u8; 6] = [0xff; 6];

/// Queues.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Bytes of an Ethernet header.
const HEAD: usize = 14;
/// Where frames are made, and where the peer's receive buffers are: a block of their own.
const FRAME: u64 = 0x4001_0000;
const RECEIVED: u64 = 0x4020_0000;
/// From one receive buffer to the next: a frame of any size fits.
const STRIDE: u64 = 0x1_1000;

/// What lets a driver leave checksums and cutting to others, and what lets others leave them to it.
const SENDS: u64 = CSUM | HOST_TSO4 | HOST_TSO6;
const TAKES: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;

/// An interface's driver, whatever it does: what the switch brings from it to a guest that keeps the rules is a frame
/// with a header such as that guest agreed to, never in that guest's own name; what that guest sends is taken, whatever
/// the receiver does with it; after a reset a driver that keeps the rules can send and receive.
pub fn net(bytes: &[u8]) {
    std::thread_local! {
        static GUESTS: RefCell<[TestGuest; 2]> = RefCell::new([TestGuest::new(), TestGuest::new()]);
    }
    GUESTS.with_borrow(|[guest, other]| drive(guest, other, Rng::Bytes(bytes)));
}

fn drive(guest: &TestGuest, other: &TestGuest, mut rng: Rng<'_>) {
    let switch = Arc::new(Switch::new("fuzz"));
    let interface = |guest, address| {
        let switch = switch.clone();
        TestDevice::new(guest, false, |link| Net::new(link, address, switch))
    };
    let device = interface(guest, OWN);
    let mut peer = Peer::start(other, interface(other, PEER), features(&mut rng));

    let chosen = features(&mut rng);
    abuse(
        guest,
        &device,
        chosen,
        &mut rng,
        |rng, [receive, transmit]| match rng.below(4) {
            0 => {
                let to = rng.pick(&[OWN, OWN, NOBODY, GROUP]);
                peer.send(to, HEAD + rng.below(2000) as usize);
            }
            1 => guest.share(FRAME + 0x1000, !rng.one_in(2)),
            2 => offer(guest, rng, receive, &device),
            _ => {
                send(guest, rng, transmit);
                device.notify(TRANSMIT as u32);
                peer.receive();
            }
        },
    );
    guest.share(FRAME + 0x1000, true);
    peer.receive();

    let [mut receive, mut transmit] = take_over(guest, &device, VERSION_1);
    receive.add(guest, &[(FRAME, 2048, true)]);
    device.notify(RECEIVE as u32);
    peer.send(OWN, 1000);
    let received = receive.take(guest).map(|(_, bytes)| bytes);
    assert_eq!(received, Some(LEN as u32 + 1000), "nothing is received");
    let frame = guest.read(FRAME + LEN as u64, 1000);
    assert_eq!(frame, plain(OWN, PEER, 1000), "something else is received");

    let frame = plain(PEER, OWN, 60);
    guest.write(FRAME, &NetHeader::default().bytes());
    guest.write(FRAME + LEN as u64, &frame);
    transmit.add(guest, &[(FRAME, (LEN + frame.len()) as u32, false)]);
    device.notify(TRANSMIT as u32);
    assert!(
        transmit.take(guest).is_some(),
        "a frame is not taken after a reset"
    );
    assert_eq!(
        peer.receive(),
        Some(frame.len()),
        "the frame does not arrive"
    );
    assert!(!device.is_broken());
}

/// Features that go together (virtio 1.2 §5.1.3.1).
fn features(rng: &mut Rng<'_>) -> u64 {
    let offloads = [0, SENDS, TAKES, SENDS | TAKES, CSUM, GUEST_CSUM];
    let mergeable = if rng.one_in(2) { MRG_RXBUF } else { 0 };
    VERSION_1 | mergeable | rng.pick(&offloads)
}

/// A frame of `len` bytes that leaves nothing to do.
fn plain(to: [u8; 6], from: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame = [to, from].concat();
    // Local experimental EtherType (IEEE 802).
    frame.extend([0x88, 0xb5]);
    frame.resize(len, 0x5a);
    frame
}

/// Receive buffers, good ones and others.
fn offer(guest: &TestGuest, rng: &mut Rng<'_>, queue: &mut TestQueue, device: &TestDevice) {
    for _ in 0..rng.below(8) {
        let descriptor = Descriptor {
            address: if rng.one_in(4) {
                BUFFERS
            } else {
                FRAME + 0x1000 * rng.below(16)
            },
            len: rng.pick(&[2048, 2048, 1526, 26, 25, 1, 70_000]),
            flags: 2 | u16::from(rng.one_in(4)),
            next: rng.below(16) as u16,
        };
        let head = rng.below(16) as u16;
        queue.describe(guest, head, &descriptor);
        queue.offer(guest, head);
    }
    device.notify(RECEIVE as u32);
}

/// Something like a frame: a header, Ethernet, IP and TCP, in a few pieces.
fn send(guest: &TestGuest, rng: &mut Rng<'_>, queue: &mut TestQueue) {
    let v6 = rng.one_in(3);
    let ip = if v6 { 40 } else { 20 };
    let gso = if v6 { GSO_TCPV6 } else { GSO_TCPV4 };
    let header = NetHeader {
        flags: rng.pick(&[0, F_NEEDS_CSUM, F_NEEDS_CSUM, F_NEEDS_CSUM, 2, 0xff]),
        gso_type: rng.pick(&[GSO_NONE, gso, gso, gso, gso | GSO_ECN, 3, GSO_TCPV4]),
        hdr_len: rng.below(100) as u16,
        gso_size: rng.pick(&[1448, 1448, 536, 1, 0, u16::MAX]),
        csum_start: (HEAD + ip) as u16,
        csum_offset: rng.pick(&[16, 16, 16, 6, 0, u16::MAX]),
        num_buffers: 0,
    };
    let to = rng.pick(&[PEER, PEER, PEER, OWN, NOBODY, GROUP]);
    let from = rng.pick(&[OWN, OWN, OWN, NOBODY, PEER, GROUP]);
    let mut start = [to, from].concat();
    start.extend(if v6 { [0x86, 0xdd, 0x60] } else { [8, 0, 0x45] });
    start.resize(HEAD + ip + 20, 0);
    if !v6 {
        start[HEAD + 9] = 6;
    }
    start[HEAD + ip + 12] = 5 << 4;
    let mut bytes = header.bytes().to_vec();
    bytes.extend(start);
    for _ in 0..rng.below(4) {
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] = rng.word() as u8;
    }
    guest.write(FRAME, &bytes);

    let lengths = [0, 13, HEAD, 54, 60, 1514, 9000, MAX_FRAME, MAX_FRAME + 1];
    let mut left = LEN as u32 + rng.pick(&lengths) as u32;
    let mut at = FRAME;
    let first = rng.below(16);
    for n in 0..6 {
        let len = match n {
            5 => left,
            _ => rng.pick(&[left, 12, 26, 100, 4000]).min(left),
        };
        left -= len;
        let descriptor = Descriptor {
            address: at,
            len,
            flags: u16::from(left != 0),
            next: ((first + n + 1) % 16) as u16,
        };
        queue.describe(guest, ((first + n) % 16) as u16, &descriptor);
        at += u64::from(len);
        if left == 0 {
            break;
        }
    }
    queue.offer(guest, first as u16);
}

/// A guest that keeps the rules.
struct Peer<'a> {
    guest: &'a TestGuest,
    device: TestDevice,
    features: u64,
    receive: TestQueue,
    transmit: TestQueue,
    /// Bytes of a receive buffer.
    size: u32,
    /// Where the buffer of a head is, and places of buffers that are not out.
    buffers: [u64; ENTRIES as usize],
    free: Vec<u64>,
}

impl<'a> Peer<'a> {
    fn start(guest: &'a TestGuest, device: TestDevice, features: u64) -> Self {
        let queues = queues();
        start(guest, &device, features, &queues);
        let [receive, transmit] = queues;
        // §5.1.6.3.1: whoever takes large frames has buffers for them.
        let mergeable = features & MRG_RXBUF != 0;
        let size = if mergeable {
            2048
        } else {
            (LEN + MAX_FRAME) as u32
        };
        let mut peer = Self {
            guest,
            device,
            features,
            receive,
            transmit,
            size,
            buffers: [0; ENTRIES as usize],
            free: (0..u64::from(ENTRIES))
                .map(|n| RECEIVED + STRIDE * n)
                .collect(),
        };
        peer.offer();
        peer
    }

    fn offer(&mut self) {
        while let Some(at) = self.free.pop() {
            let head = self.receive.add(self.guest, &[(at, self.size, true)]);
            self.buffers[usize::from(head)] = at;
        }
        self.device.notify(RECEIVE as u32);
    }

    /// Sends a frame, which is taken whatever becomes of it.
    fn send(&mut self, to: [u8; 6], len: usize) {
        self.guest.write(FRAME, &NetHeader::default().bytes());
        let frame = plain(to, PEER, len);
        self.guest.write(FRAME + LEN as u64, &frame);
        let buffer = (FRAME, (LEN + len) as u32, false);
        self.transmit.add(self.guest, &[buffer]);
        self.device.notify(TRANSMIT as u32);
        assert!(
            self.transmit.take(self.guest).is_some(),
            "a good frame is not taken"
        );
        assert!(!self.device.is_broken(), "who keeps the rules is broken");
    }

    /// Takes all frames that came; answers the last one's length.
    fn receive(&mut self) -> Option<usize> {
        let mut last = None;
        loop {
            while let Some(len) = self.receive_one() {
                last = Some(len);
            }
            // What waits for buffers comes now.
            self.offer();
            if self.guest.read16(self.receive.place.used + 2) == self.receive.seen {
                assert!(!self.device.is_broken(), "who keeps the rules is broken");
                return last;
            }
        }
    }

    /// Takes a frame, and looks whether it is one that may come here.
    fn receive_one(&mut self) -> Option<usize> {
        let (at, mut bytes) = self.take()?;
        let start = self.guest.read(at, LEN + HEAD);
        let header = NetHeader::read(start.first_chunk().expect("12 bytes"));
        let mergeable = self.features & MRG_RXBUF != 0;
        assert!(header.num_buffers == 1 || (mergeable && header.num_buffers != 0));
        for n in 1..header.num_buffers {
            assert_eq!(bytes % self.size, 0, "buffer {} has room", n - 1);
            bytes += self.take().expect("a buffer is missing").1;
        }
        let len = bytes as usize - LEN;
        assert!((HEAD..=MAX_FRAME).contains(&len), "{len} bytes");

        let takes = takes(self.features);
        assert!(takes.all_of(&header), "{header:?} was not agreed to");
        if header.flags & F_NEEDS_CSUM != 0 {
            let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
            assert!(end <= len, "a checksum at {end} in {len} bytes");
        }
        if header.gso_type != GSO_NONE {
            assert!(header.gso_size != 0 && header.flags & F_NEEDS_CSUM != 0);
            assert!(usize::from(header.hdr_len) <= len);
        }
        let (to, from) = start[LEN..].split_at(6);
        assert_ne!(&from[..6], PEER, "a frame in the receiver's own name");
        assert!(from[0] & 1 == 0, "a frame from a group");
        assert!(to != OWN, "another's frame, whose address the switch knows");
        Some(len)
    }

    /// Takes a buffer back: where it is, and bytes written.
    fn take(&mut self) -> Option<(u64, u32)> {
        let (head, bytes) = self.receive.take(self.guest)?;
        assert!(bytes != 0 && bytes <= self.size, "{bytes} bytes written");
        let at = self.buffers[usize::from(head)];
        self.free.push(at);
        Some((at, bytes))
    }
}

// The peer's rings and what it sends are apart.
const _: () = assert!(PAGE + 0x1000 <= FRAME && FRAME + 0x1_1000 <= RECEIVED);
