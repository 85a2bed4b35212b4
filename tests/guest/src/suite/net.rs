//! Network devices: frames arrive, and nothing that a driver does to one harms another.
//!
//! The VM has two interfaces on one switch, with or without others.

use crate::net::{BUFFER, HEAD, HEADER, MRG_RXBUF, OFFLOADS, RECEIVE, TRANSMIT, pair, start};
use crate::verdict::{Verdict, check, check_eq};
use crate::virtio::{self, Descriptor, F_ACCESS_PLATFORM, reg};

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
    one_ring_for_two()?;
    transmit_rings()?;
    receive_rings()?;
    headers()?;
    spoofing()?;
    flood()
}

/// Two queues at one address.
fn one_ring_for_two() -> Verdict {
    let one = start(0, 0)?;
    check!(one.device.negotiate(0), "features are refused");
    one.device.place(RECEIVE, &one.receive);
    one.device.place(TRANSMIT, &one.receive);
    one.device.ready();
    check!(
        one.device.is_broken(),
        "two queues at one address: the device goes on"
    );
    works()
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
