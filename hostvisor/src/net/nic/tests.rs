use super::*;
use crate::hw::{Dma, TestRam, pool_read, pool_write};
use crate::net::header::{F_NEEDS_CSUM, GSO_TCPV4};
use crate::virtqueue::{
    DESCRIPTOR, INDEX, NEXT, WRITE, available_bytes, available_entry, used_entry,
};
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use proptest::prelude::*;

const SIZE: u16 = 64;

/// Head of a chain, and address, length and flags of each of its descriptors.
type Chain = (u16, Vec<(u64, u32, u16)>);

/// The card's side of one queue.
struct Ring {
    memory: Dma,
    next: u16,
    used: u16,
}

impl Ring {
    const AVAILABLE: u64 = DESCRIPTOR * SIZE as u64;
    const USED: u64 = (Self::AVAILABLE + available_bytes(SIZE)).next_multiple_of(4);

    fn new() -> (Queue, Self) {
        let memory = Dma::new(0x1_0000, Queue::bytes(SIZE).next_multiple_of(4096)).unwrap();
        let queue = Queue::new(memory.clone(), SIZE, true).unwrap();
        let ring = Self {
            memory,
            next: 0,
            used: 0,
        };
        (queue, ring)
    }

    fn take(&mut self) -> Option<Chain> {
        if self.memory.read16(Self::AVAILABLE + INDEX) == self.next {
            return None;
        }
        let slot = self.next % SIZE;
        let head = self.memory.read16(Self::AVAILABLE + available_entry(slot));
        self.next = self.next.wrapping_add(1);
        let (mut index, mut chain) = (head, Vec::new());
        loop {
            let at = u64::from(index) * DESCRIPTOR;
            let flags = self.memory.read16(at + 12);
            chain.push((self.memory.read64(at), self.memory.read32(at + 8), flags));
            assert!(chain.len() <= usize::from(SIZE), "the chain loops");
            if flags & NEXT == 0 {
                return Some((head, chain));
            }
            index = self.memory.read16(at + 14);
        }
    }

    /// Puts a chain into the used ring; [`Self::show`] shows it.
    fn put(&mut self, head: u16, len: u32) {
        let at = Self::USED + used_entry(self.used % SIZE);
        self.memory.write32(at, head.into());
        self.memory.write32(at + 4, len);
        self.used = self.used.wrapping_add(1);
    }

    fn show(&self) {
        self.memory.write16(Self::USED + INDEX, self.used);
    }
}

#[derive(Clone, Default)]
struct Registers {
    resets: Arc<AtomicU32>,
}

impl port::Port for Registers {
    fn notify(&self, _queue: u16) {}

    fn acknowledge(&self) -> u32 {
        port::QUEUE
    }

    fn is_broken(&self) -> bool {
        false
    }

    fn reset(&self) -> bool {
        self.resets.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn config32(&self, _offset: u64) -> u32 {
        0
    }
}

/// Somebody on the switch, who keeps all he is given.
#[derive(Default)]
struct Peer {
    frames: Mutex<Vec<Vec<u8>>>,
    counters: Counters,
}

impl Port for Peer {
    fn label(&self) -> String {
        "peer".into()
    }

    fn deliver(&self, frame: &Frame<'_>) -> Result<(), Fault> {
        self.frames.lock().push(frame.to_vec().unwrap().unwrap());
        Ok(())
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// A card with its driver, the uplink of a switch with one other port.
struct Bench {
    nic: Arc<Nic>,
    peer: Arc<Peer>,
    registers: Registers,
    receive: Ring,
    transmit: Ring,
    _ram: TestRam,
}

impl Bench {
    fn new() -> Self {
        let size = u64::from(SIZE);
        let receive_bytes = size * u64::from(receive::BUFFER);
        let ram = TestRam::new(receive_bytes + size * u64::from(transmit::BUFFER));
        let (receive_queue, receive) = Ring::new();
        let (transmit_queue, transmit) = Ring::new();
        let receiver = Receiver::new(receive_queue, ram.base());
        let transmitter = Transmitter::new(transmit_queue, ram.base() + receive_bytes);
        let registers = Registers::default();
        let nic = Arc::new_cyclic(|own| Nic {
            place: "here".into(),
            address: [2, 0, 0, 0, 0, 99],
            registers: Box::new(registers.clone()),
            has_status: false,
            gives: Accepts {
                checksum: true,
                ..Accepts::default()
            },
            accepts: Accepts::default(),
            limit: HEAD + TAGS + usize::from(MTU),
            own: own.clone(),
            timer: TIMERS,
            uplink: Once::new(),
            receiver: Mutex::new(receiver),
            transmitter: Mutex::new(transmitter),
            link_up: AtomicBool::new(true),
            dead: AtomicBool::new(false),
            counters: Counters::default(),
        });
        let switch = Arc::new(Switch::new("test"));
        let peer = Arc::new(Peer::default());
        switch.attach(peer.clone(), Some(mac(1))).unwrap();
        assert!(nic.join(&switch));
        Self {
            nic,
            peer,
            registers,
            receive,
            transmit,
            _ram: ram,
        }
    }

    /// The card receives a frame, if it has buffers for it.
    fn arrive(&mut self, header: NetHeader, frame: &[u8], buffers: &mut Vec<(u16, u64)>) -> bool {
        let size = receive::BUFFER as usize;
        let number = (LEN + frame.len()).div_ceil(size);
        while let Some((head, chain)) = self.receive.take() {
            let [(at, len, WRITE)] = chain[..] else {
                panic!("{chain:?}");
            };
            assert_eq!(len as usize, size);
            buffers.push((head, at));
        }
        if buffers.len() < number {
            return false;
        }
        let header = NetHeader {
            num_buffers: number as u16,
            ..header
        };
        let bytes = [&header.bytes()[..], frame].concat();
        for piece in bytes.chunks(size) {
            // Not in the order in which they were given.
            let (head, at) = buffers.pop().unwrap();
            pool_write(at, piece).unwrap();
            self.receive.put(head, piece.len() as u32);
        }
        self.receive.show();
        true
    }

    /// The card takes the next chain: its head, and the frame behind the header.
    fn depart(&mut self) -> Option<(u16, NetHeader, Vec<u8>)> {
        let (head, chain) = self.transmit.take()?;
        let mut bytes = Vec::new();
        for (at, len, flags) in chain {
            assert_eq!(flags & WRITE, 0);
            let mut piece = vec![0; len as usize];
            pool_read(at, &mut piece).unwrap();
            bytes.extend(piece);
        }
        let header = NetHeader::read(bytes.first_chunk().unwrap());
        Some((head, header, bytes.split_off(LEN)))
    }

    fn send(&self, header: NetHeader, bytes: &[u8]) {
        let frame = Frame::own(header, bytes).unwrap();
        assert_eq!(self.nic.deliver(&frame), Ok(()));
    }

    fn count(&self, name: &str) -> u64 {
        let counters = self.nic.counters.list();
        counters.into_iter().find(|c| c.0 == name).unwrap().1
    }
}

const fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

fn frame(len: usize, serial: usize) -> Vec<u8> {
    let mut bytes = [mac(1), mac(2)].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.extend((bytes.len()..len.max(HEAD)).map(|n| (serial * 31 + n) as u8));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever order the card sends in and however late it says so: what is not counted as dropped reaches it whole and
    /// in order, and all buffers come back.
    #[test]
    fn frames_reach_the_card_whole_in_order_or_are_counted(
        steps in proptest::collection::vec((14usize..1522, 0usize..6, any::<prop::sample::Index>()), 1..600),
    ) {
        let mut bench = Bench::new();
        let mut held = Vec::new();
        let mut arrived = Vec::new();
        for (serial, (len, number, which)) in steps.iter().enumerate() {
            bench.send(NetHeader::default(), &frame(*len, serial));
            // The card stands still for a while.
            let number = if serial % 500 < 450 { 0 } else { *number };
            for _ in 0..number {
                if let Some((head, header, bytes)) = bench.depart() {
                    prop_assert_eq!(header, NetHeader::default());
                    arrived.push(bytes);
                    held.push(head);
                }
                if !held.is_empty() {
                    let head = held.swap_remove(which.index(held.len()));
                    bench.transmit.put(head, 0);
                    bench.transmit.show();
                }
            }
        }
        loop {
            while let Some((head, _, bytes)) = bench.depart() {
                arrived.push(bytes);
                held.push(head);
            }
            if held.is_empty() {
                break;
            }
            for head in held.drain(..) {
                bench.transmit.put(head, 0);
            }
            bench.transmit.show();
            bench.nic.handle();
        }
        let sent = steps.iter().enumerate().map(|(n, (len, ..))| frame(*len, n));
        let mut rest = arrived.iter().peekable();
        for bytes in sent {
            if rest.peek() == Some(&&bytes) {
                rest.next();
            }
        }
        prop_assert_eq!(rest.next(), None, "out of order or changed");
        prop_assert_eq!(bench.count("packets received"), arrived.len() as u64);
        prop_assert_eq!(bench.count("packets dropped"), (steps.len() - arrived.len()) as u64);
        let mut transmitter = bench.nic.transmitter.lock();
        prop_assert!(transmitter.is_idle().unwrap());
    }

    /// What the card receives reaches the switch whole and in order, however large it is.
    #[test]
    fn frames_of_the_card_reach_the_switch_whole_and_in_order(
        batches in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![4 => 14usize..1600, 1 => 2000usize..20_000], 1..80),
            1..6,
        ),
    ) {
        let mut bench = Bench::new();
        let mut sent = Vec::new();
        let mut buffers = Vec::new();
        for batch in batches {
            for len in batch {
                let bytes = frame(len, sent.len());
                if bench.arrive(NetHeader::default(), &bytes, &mut buffers) {
                    sent.push(bytes);
                }
            }
            // What one visit leaves, the next one takes.
            bench.nic.handle();
            bench.nic.handle();
        }
        prop_assert_eq!(&*bench.peer.frames.lock(), &sent);
        prop_assert_eq!(bench.count("packets sent"), sent.len() as u64);
        prop_assert_eq!(bench.count("packets refused"), 0);
        prop_assert_eq!(bench.registers.resets.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_frame_that_is_none_is_counted_and_the_card_goes_on() {
    let mut bench = Bench::new();
    let mut buffers = Vec::new();
    let short = &frame(14, 0)[..13];
    let beyond = NetHeader {
        flags: F_NEEDS_CSUM,
        csum_start: 34,
        csum_offset: 16,
        ..NetHeader::default()
    };
    let never_agreed = NetHeader {
        gso_type: GSO_TCPV4,
        gso_size: 1000,
        csum_start: 14,
        ..beyond
    };
    assert!(bench.arrive(NetHeader::default(), short, &mut buffers));
    assert!(bench.arrive(beyond, &frame(51, 0), &mut buffers));
    assert!(bench.arrive(never_agreed, &frame(500, 0), &mut buffers));
    assert!(bench.arrive(NetHeader::default(), &frame(60, 1), &mut buffers));
    bench.nic.handle();
    assert_eq!(*bench.peer.frames.lock(), [frame(60, 1)]);
    assert_eq!(bench.count("packets refused"), 3);
    assert!(!bench.nic.is_dead());
}

#[test]
fn a_card_that_makes_things_up_is_reset_once_and_left_alone() {
    type Lie = fn(&mut Bench);
    let lies: [(&str, Lie); 7] = [
        ("no buffer at all", |b| show(b, 0, 100)),
        ("more buffers than shown", |b| show(b, 2, 100)),
        ("more buffers than there are", |b| show(b, 65, 100)),
        ("more bytes than a buffer has", |b| show(b, 1, 2049)),
        ("a buffer twice", |b| {
            show(b, 2, 2048);
            let head = b.receive.memory.read32(Ring::USED + used_entry(0));
            b.receive.put(head as u16, 100);
        }),
        ("a buffer that is none", |b| b.receive.put(SIZE, 100)),
        ("a frame sent twice", |b| {
            b.send(NetHeader::default(), &frame(60, 0));
            let (head, ..) = b.depart().unwrap();
            b.transmit.put(head, 0);
            b.transmit.put(head, 0);
            b.transmit.show();
            // Only who looks for room looks there.
            for n in 0..=SIZE.into() {
                b.send(NetHeader::default(), &frame(60, n));
            }
        }),
    ];
    for (what, lie) in lies {
        let mut bench = Bench::new();
        lie(&mut bench);
        bench.receive.show();
        for _ in 0..3 {
            bench.nic.handle();
        }
        assert!(bench.nic.is_dead(), "{what}");
        assert_eq!(bench.registers.resets.load(Ordering::Relaxed), 1, "{what}");
        let dropped = bench.count("packets dropped");
        bench.send(NetHeader::default(), &frame(60, 0));
        assert_eq!(bench.count("packets dropped"), dropped + 1, "{what}");
    }
}

/// The card shows one buffer of a frame that is said to be in `number` of them.
fn show(bench: &mut Bench, number: u16, len: u32) {
    let (head, chain) = bench.receive.take().unwrap();
    let header = NetHeader {
        num_buffers: number,
        ..NetHeader::default()
    };
    pool_write(chain[0].0, &header.bytes()).unwrap();
    bench.receive.put(head, len);
}

#[test]
fn what_the_card_cannot_do_is_done_for_it() {
    let mut bench = Bench::new();
    // IPv4 and TCP, 4000 bytes of payload.
    let mut large = frame(HEAD + 40 + 4000, 0);
    large[12..14].copy_from_slice(&[8, 0]);
    large[14] = 0x45;
    large[23] = 6;
    large[HEAD + 20 + 12] = 0x50;
    let header = NetHeader {
        flags: F_NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1460,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 1,
    };
    bench.send(header, &large);
    let mut payload = 0;
    while let Some((_, header, bytes)) = bench.depart() {
        assert_eq!(header, NetHeader::default());
        payload += bytes.len() - HEAD - 40;
    }
    assert_eq!(payload, 4000);
    assert_eq!(bench.count("packets received"), 3);
    // Too large for the wire, and nobody said that it may be cut.
    bench.send(NetHeader::default(), &frame(1523, 0));
    assert_eq!(bench.count("packets dropped"), 1);
    assert!(bench.depart().is_none());
}
