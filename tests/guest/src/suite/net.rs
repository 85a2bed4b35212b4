//! Network devices: frames arrive, and nothing that a driver does to one harms another.
//!
//! The VM has two interfaces on one switch, with or without others.

use crate::verdict::{Problem, Verdict, check, check_eq, fail};
use crate::virtio::{self, Descriptor, Device, F_ACCESS_PLATFORM, Queue, reg};

const NET: u32 = 1;
/// VIRTIO_NET_F_CSUM, _HOST_TSO4, _MRG_RXBUF.
const OFFLOADS: u64 = 1 | 1 << 11;
const MRG_RXBUF: u64 = 1 << 15;
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
/// `struct virtio_net_hdr_v1`, and an Ethernet header.
const HEADER: u64 = 12;
const HEAD: u64 = 14;
/// Local experimental EtherType (IEEE 802).
const KIND: [u8; 2] = [0x88, 0xb5];
/// Pages of the arena: from the first on, so many for each interface.
const FIRST: usize = 8;
const PAGES: usize = 5;
/// Bytes of a receive buffer; four of them in two pages.
const BUFFER: u64 = 2048;
const BUFFERS: u16 = 4;

struct Interface {
    device: Device,
    mac: [u8; 6],
    receive: Queue,
    transmit: Queue,
    /// Receive buffers, and what is sent.
    buffers: u64,
    frame: u64,
}

/// Brings interface `nth` up, without receive buffers.
fn start(nth: usize, features: u64) -> Result<Interface, Problem> {
    let device = virtio::find(NET, nth).ok_or(Problem::Skip("no two network devices"))?;
    let page = FIRST + nth * PAGES;
    let (receive, transmit) = (Queue::new(page, 8), Queue::new(page + 1, 8));
    check!(device.negotiate(features), "features are refused");
    device.place(RECEIVE, &receive);
    device.place(TRANSMIT, &transmit);
    device.ready();
    check!(!device.is_broken(), "the device breaks at DRIVER_OK");
    let [a, b, c, d] = device.get(reg::CONFIG).to_le_bytes();
    let [e, f, ..] = device.get(reg::CONFIG + 4).to_le_bytes();
    Ok(Interface {
        device,
        mac: [a, b, c, d, e, f],
        receive,
        transmit,
        buffers: virtio::page(page + 2),
        frame: virtio::page(page + 4),
    })
}

fn pair(features: u64) -> Result<[Interface; 2], Problem> {
    let (mut one, mut other) = (start(0, features)?, start(1, features)?);
    one.offer_all();
    other.offer_all();
    Ok([one, other])
}

impl Interface {
    fn buffer(&self, index: u16) -> u64 {
        self.buffers + BUFFER * u64::from(index)
    }

    fn offer_all(&mut self) {
        for index in 0..BUFFERS {
            self.receive
                .add(index, self.buffer(index), BUFFER as u32, true);
        }
        self.device.notify(RECEIVE);
    }

    /// Writes a frame of `len` bytes and a header of zeros in front of it.
    fn compose(&self, to: [u8; 6], from: [u8; 6], len: u64, fill: u8) {
        virtio::clear(self.frame, 4096);
        let head = to.into_iter().chain(from).chain(KIND);
        let payload = (HEAD..len).map(|n| fill ^ n as u8);
        for (n, byte) in (0..).zip(head.chain(payload)) {
            virtio::store(self.frame + HEADER + n, byte);
        }
    }

    /// Sends `len` bytes of what was composed, header included, and waits until the device is done with it.
    fn send(&mut self, len: u64) -> Verdict {
        self.transmit.add(0, self.frame, len as u32, false);
        self.device.notify(TRANSMIT);
        let sent = self.transmit.wait();
        check!(sent == Some((0, 0)), "used: {sent:?}");
        Ok(())
    }

    /// Waits for a frame like this one, and offers its buffer again.
    fn expect(&mut self, len: u64, fill: u8) -> Verdict {
        let Some((head, written)) = self.receive.wait() else {
            fail!("no frame of {len} bytes arrives")
        };
        check_eq!(u64::from(written), HEADER + len, "bytes of the frame");
        let at = self.buffer(head as u16);
        check_eq!(virtio::load::<u16>(at + 10), 1, "num_buffers");
        let wrong = (HEAD..len).find(|n| virtio::load::<u8>(at + HEADER + n) != fill ^ *n as u8);
        check!(wrong.is_none(), "a wrong byte: {wrong:?}");
        self.receive.add(head as u16, at, BUFFER as u32, true);
        self.device.notify(RECEIVE);
        Ok(())
    }

    fn expect_nothing(&mut self) -> Verdict {
        check!(self.receive.take().is_none(), "a frame arrives");
        Ok(())
    }
}

/// Frames of all sizes go both ways, one after the other.
pub(crate) fn frames() -> Verdict {
    let [mut one, mut other] = pair(MRG_RXBUF)?;
    for round in 0..200u64 {
        let len = HEAD + round * 37 % 1500;
        one.compose(other.mac, one.mac, len, round as u8);
        one.send(HEADER + len)?;
        other.expect(len, round as u8)?;
        other.compose(one.mac, other.mac, len, !(round as u8));
        other.send(HEADER + len)?;
        one.expect(len, !(round as u8))?;
    }
    one.device.set(reg::STATUS, 0);
    other.device.set(reg::STATUS, 0);
    Ok(())
}

/// A sign that both interfaces work.
fn works() -> Verdict {
    let [mut one, mut other] = pair(MRG_RXBUF)?;
    one.compose(other.mac, one.mac, 100, 7);
    one.send(HEADER + 100)?;
    other.expect(100, 7)?;
    one.device.set(reg::STATUS, 0);
    other.device.set(reg::STATUS, 0);
    Ok(())
}

/// Rings that break the rules stop their own device, and a reset heals it; the other interface notices nothing. Frames
/// that are none are not delivered, and no more.
pub(crate) fn hostile() -> Verdict {
    transmit_rings()?;
    receive_rings()?;
    headers()?;
    spoofing()?;
    flood()
}

fn transmit_rings() -> Verdict {
    let end = virtio::end_of_ram();
    let good = Descriptor {
        address: start(0, 0)?.frame,
        len: 100,
        flags: 0,
        next: 0,
    };
    let chains: [(&str, Descriptor); 6] = [
        ("loop", Descriptor { flags: 1, ..good }),
        (
            "next out of range",
            Descriptor {
                flags: 1,
                next: 8,
                ..good
            },
        ),
        ("to be written", Descriptor { flags: 2, ..good }),
        (
            "across the end of RAM",
            Descriptor {
                address: end - 50,
                ..good
            },
        ),
        (
            "the GIC",
            Descriptor {
                address: 0x0800_0000,
                ..good
            },
        ),
        (
            "length that wraps around",
            Descriptor {
                address: u64::MAX - 8,
                ..good
            },
        ),
    ];
    for (what, descriptor) in chains {
        let mut one = start(0, 0)?;
        one.transmit.describe(0, &descriptor);
        one.transmit.offer(0);
        one.device.notify(TRANSMIT);
        check!(one.device.is_broken(), "{what}: the device goes on");
        works()?;
    }
    Ok(())
}

/// What is wrong with a receive buffer is its owner's fault, not the sender's.
fn receive_rings() -> Verdict {
    let end = virtio::end_of_ram();
    let good = Descriptor {
        address: start(1, 0)?.buffers,
        len: BUFFER as u32,
        flags: 2,
        next: 0,
    };
    let buffers: [(&str, Descriptor); 5] = [
        ("to be read", Descriptor { flags: 0, ..good }),
        ("too small for headers", Descriptor { len: 25, ..good }),
        ("loop", Descriptor { flags: 3, ..good }),
        (
            "across the end of RAM",
            Descriptor {
                address: end - 50,
                ..good
            },
        ),
        (
            "own registers",
            Descriptor {
                address: 0x0a00_0000,
                ..good
            },
        ),
    ];
    for (what, descriptor) in buffers {
        let (mut one, mut other) = (start(0, MRG_RXBUF)?, start(1, MRG_RXBUF)?);
        other.receive.describe(0, &descriptor);
        other.receive.offer(0);
        one.compose(other.mac, one.mac, 100, 1);
        one.send(HEADER + 100)?;
        check!(other.device.is_broken(), "{what}: the device goes on");
        check!(!one.device.is_broken(), "{what}: the sender is blamed");
        works()?;
    }
    Ok(())
}

/// Headers that promise what the frame does not keep.
fn headers() -> Verdict {
    let [mut one, mut other] = pair(MRG_RXBUF | OFFLOADS)?;
    // flags, gso_type, hdr_len, gso_size, csum_start, csum_offset: NEEDS_CSUM is 1, TCPV4 1, UDP 3.
    let lies: [(&str, [u16; 5]); 8] = [
        ("a checksum behind the end", [0x0001, 0, 0, 90, 16]),
        (
            "a checksum that wraps around",
            [0x0001, 0, 0, 0xffff, 0xffff],
        ),
        ("segments of nothing", [0x0101, 54, 0, 34, 16]),
        ("segments without checksum", [0x0100, 54, 1000, 34, 16]),
        ("segments of what is not TCP", [0x0101, 54, 1000, 34, 6]),
        ("segments of what is not IP", [0x0101, 54, 1000, 34, 16]),
        ("UDP segments", [0x0301, 42, 1000, 34, 6]),
        ("an unknown type", [0x7f01, 42, 1000, 34, 16]),
    ];
    for (what, [kinds, fields @ ..]) in lies {
        one.compose(other.mac, one.mac, 100, 2);
        virtio::store(one.frame, kinds);
        for (n, field) in (1..).zip(fields) {
            virtio::store(one.frame + 2 * n, field);
        }
        one.send(HEADER + 100)?;
        check!(!one.device.is_broken(), "{what}: the device stops");
        other.expect_nothing()?;
    }
    for len in [1, HEADER - 1, HEADER, HEADER + HEAD - 1] {
        one.compose(other.mac, one.mac, 100, 3);
        one.send(len)?;
        other.expect_nothing()?;
    }
    works()
}

/// Nobody sends in another's name.
fn spoofing() -> Verdict {
    let [mut one, mut other] = pair(MRG_RXBUF)?;
    for from in [other.mac, [0xff; 6], [1, 0, 0, 0, 0, 1]] {
        one.compose(other.mac, from, 100, 4);
        one.send(HEADER + 100)?;
        one.compose([0xff; 6], from, 100, 4);
        one.send(HEADER + 100)?;
        other.expect_nothing()?;
    }
    works()
}

/// A receiver without buffers holds nobody up; what was kept for it comes in order, and no more than the bound.
fn flood() -> Verdict {
    let (mut one, mut other) = (start(0, MRG_RXBUF)?, start(1, MRG_RXBUF)?);
    for round in 0..1000u64 {
        one.compose(other.mac, one.mac, 1000, round as u8);
        one.send(HEADER + 1000)?;
    }
    other.offer_all();
    let mut kept = 0u64;
    while let Some((head, _)) = other.receive.wait() {
        let at = other.buffer(head as u16);
        let first = virtio::load::<u8>(at + HEADER + HEAD);
        check_eq!(first, kept as u8 ^ HEAD as u8, "order of what was kept");
        kept += 1;
        other.receive.add(head as u16, at, BUFFER as u32, true);
        other.device.notify(RECEIVE);
    }
    check!((1..1000).contains(&kept), "{kept} frames of 1000 were kept");
    // A reset forgets what waits.
    other.device.set(reg::STATUS, 0);
    one.compose(other.mac, one.mac, 100, 5);
    one.send(HEADER + 100)?;
    works()
}

/// A protected VM's device reads no frame from a page that is not shared.
pub(crate) fn private() -> Verdict {
    let mut one = start(0, 0)?;
    if one.device.features() & F_ACCESS_PLATFORM == 0 {
        // An open VM has no private pages.
        return Ok(());
    }
    one.transmit.add(0, virtio::private_page(), 100, false);
    one.device.notify(TRANSMIT);
    check!(one.device.is_broken(), "a private page is read");
    let (mut one, mut other) = (start(0, MRG_RXBUF)?, start(1, MRG_RXBUF)?);
    other
        .receive
        .add(0, virtio::private_page(), BUFFER as u32, true);
    one.compose(other.mac, one.mac, 100, 6);
    one.send(HEADER + 100)?;
    check!(other.device.is_broken(), "a private page is written to");
    check!(!one.device.is_broken(), "the sender is blamed");
    works()
}
