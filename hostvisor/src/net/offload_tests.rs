use super::*;
use crate::net::frame::HEAD;
use proptest::prelude::*;

const ALL: Accepts = Accepts {
    checksum: true,
    tso4: true,
    tso6: true,
};

/// A TCP frame with `payload`, as a sender leaves it that does neither checksum nor segmentation, and its header.
fn tcp(v6: bool, payload: &[u8], gso_size: u16) -> (NetHeader, Vec<u8>) {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let segment = TCP + payload.len();
    let addresses;
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((segment as u16).to_be_bytes());
        bytes.extend([PROTOCOL_TCP, 64]);
        addresses = bytes.len()..bytes.len() + 32;
        bytes.extend((0..32).map(|n| n * 7 + 1));
    } else {
        bytes.extend([0x08, 0x00, 0x45, 0]);
        bytes.extend(((20 + segment) as u16).to_be_bytes());
        bytes.extend([0x12, 0x34, 0x40, 0, 64, PROTOCOL_TCP, 0, 0]);
        addresses = bytes.len()..bytes.len() + 8;
        bytes.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        let checksum = fold(sum(&bytes[14..34]));
        bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
    let start = bytes.len();
    // The sum of the pseudo-header, folded, not complemented.
    let pseudo = sum(&bytes[addresses]) + u64::from(PROTOCOL_TCP) + segment as u64;
    bytes.extend([
        0x1f, 0x90, 0xc0, 0x00, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 9, 0x50, 0x99, 0x20, 0,
    ]);
    bytes.extend((!fold(pseudo)).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let gso_type = match (gso_size, v6) {
        (0, _) => GSO_NONE,
        (_, false) => GSO_TCPV4,
        (_, true) => GSO_TCPV6,
    };
    let header = NetHeader {
        flags: F_NEEDS_CSUM,
        gso_type,
        gso_size,
        csum_start: start as u16,
        csum_offset: TCP_CHECKSUM as u16,
        num_buffers: 1,
        ..NetHeader::default()
    };
    (header, bytes)
}

/// True if all checksums of a TCP packet are right, computed another way: word by word with end-around carry.
fn is_right(packet: &[u8], v6: bool) -> bool {
    let fits = |chunks: &[&[u8]], extra: u32| {
        let mut total = extra;
        for chunk in chunks {
            for word in chunk.chunks(2) {
                total += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0));
                total = (total & 0xffff) + (total >> 16);
            }
        }
        total == 0xffff
    };
    let (addresses, start) = if v6 { (22..54, 54) } else { (26..34, 34) };
    let segment = &packet[start..];
    let length = if v6 {
        get16(packet, 18).unwrap() + 40
    } else {
        get16(packet, 16).unwrap()
    };
    usize::from(length) + 14 == packet.len()
        && (v6 || fits(&[&packet[14..34]], 0))
        && fits(&[&packet[addresses], segment], 6 + segment.len() as u32)
}

fn adapted(
    header: NetHeader,
    bytes: &[u8],
    accepts: Accepts,
) -> Result<Vec<(NetHeader, Vec<u8>)>, Fault> {
    let mut out = Vec::new();
    let whole = adapt(&Frame::own(header, bytes).unwrap(), accepts, |frame| {
        out.push((frame.header, frame.to_vec().unwrap().unwrap()));
        Ok::<_, Fault>(())
    })?;
    assert!(whole);
    Ok(out)
}

#[test]
fn what_there_is_no_memory_for_is_nobodys_fault() {
    let (header, _) = tcp(false, b"payload", 100);
    let frame = Frame::in_pool(header, [0; HEAD], &[], 0, isize::MAX as usize);
    let never = |_: &Frame<'_>| -> Result<(), Fault> { panic!("handed over") };
    assert_eq!(adapt(&frame, Accepts::default(), never), Ok(false));
}

proptest! {
    /// However a segment is cut: packets are right in themselves, no larger than asked for, and together the
    /// stream of bytes that the segment was.
    #[test]
    fn packets_are_right_and_carry_the_same_stream(
        payload in proptest::collection::vec(any::<u8>(), 0..9000), size in 64u16..3000, v6: bool,
    ) {
        let (header, bytes) = tcp(v6, &payload, size);
        let start = usize::from(header.csum_start);
        let packets = adapted(header, &bytes, Accepts { checksum: true, ..Accepts::default() }).unwrap();
        let mut stream = Vec::new();
        let count = packets.len();
        prop_assert_eq!(count, payload.len().div_ceil(size.into()).max(1));
        for (n, (header, packet)) in packets.into_iter().enumerate() {
            prop_assert_eq!((header.flags, header.gso_type), (0, GSO_NONE));
            prop_assert!(is_right(&packet, v6), "packet {}", n);
            let sequence = u32::from_be_bytes(packet[start + 4..start + 8].try_into().unwrap());
            prop_assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(stream.len() as u32));
            let flags = packet[start + 13];
            prop_assert_eq!(flags & LAST_ONLY != 0, n + 1 == count);
            prop_assert_eq!(flags & FIRST_ONLY != 0, n == 0);
            prop_assert_eq!(flags & 0x10, 0x10, "ACK stays");
            prop_assert!(packet.len() <= start + TCP + usize::from(size));
            stream.extend_from_slice(&packet[start + TCP..]);
        }
        prop_assert_eq!(stream, payload);
    }

    #[test]
    fn a_checksum_is_filled_in_where_it_is_not_taken_over(
        payload in proptest::collection::vec(any::<u8>(), 0..1500), v6: bool,
    ) {
        let (header, bytes) = tcp(v6, &payload, 0);
        let [(done, packet)] = adapted(header, &bytes, Accepts::default()).unwrap().try_into().unwrap();
        prop_assert_eq!(done.flags, 0);
        prop_assert!(is_right(&packet, v6));
        // A receiver that takes it over gets it as it was.
        let [(same, packet)] = adapted(header, &bytes, ALL).unwrap().try_into().unwrap();
        prop_assert_eq!((same, packet), (header, bytes));
    }

    /// Whatever header on whatever bytes: a bounded number of packets, or a refusal; no panic.
    #[test]
    fn garbage_is_refused_or_bounded(
        header: [u8; 12], bytes in proptest::collection::vec(any::<u8>(), 14..200), tweak in 0usize..54, value: u8,
        v6: bool, plausible: bool,
    ) {
        let (mut good, mut frame) = tcp(v6, &bytes, 1 + u16::from(value));
        let mut header = NetHeader::read(&header);
        if plausible {
            frame[tweak] = value;
            good.csum_start = good.csum_start.wrapping_add(u16::from(value & 1));
            header = good;
        } else {
            frame = bytes;
        }
        if let Some(checked) = check(&header, frame.len(), ALL)
            && let Ok(packets) = adapted(checked, &frame, Accepts::default())
        {
            prop_assert!(packets.len() <= MAX_PACKETS);
            prop_assert!(packets.iter().all(|(h, _)| h.flags == 0 && h.gso_type == 0));
        }
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let (good, bytes) = tcp(false, &[1; 3000], 1000);
    assert!(check(&good, bytes.len(), ALL).is_some());
    let refused = |header| check(&header, bytes.len(), ALL).is_none();
    assert!(refused(NetHeader {
        csum_start: 0xffff,
        ..good
    }));
    assert!(refused(NetHeader {
        csum_offset: 0xffff,
        ..good
    }));
    assert!(refused(NetHeader {
        csum_start: bytes.len() as u16 - 17,
        ..good
    }));
    assert!(refused(NetHeader {
        gso_size: 0,
        ..good
    }));
    assert!(
        refused(NetHeader { flags: 0, ..good }),
        "segmentation without checksum"
    );
    assert!(
        refused(NetHeader {
            gso_type: 3,
            ..good
        }),
        "UDP fragmentation"
    );
    assert!(
        refused(NetHeader {
            gso_type: GSO_TCPV4 | 0x80,
            ..good
        }),
        "ECN"
    );
    for sent in [
        Accepts {
            checksum: false,
            ..ALL
        },
        Accepts { tso4: false, ..ALL },
    ] {
        assert!(check(&good, bytes.len(), sent).is_none(), "not negotiated");
    }
    // One byte a packet would be three thousand packets for one.
    let tiny = NetHeader {
        gso_size: 1,
        ..good
    };
    assert_eq!(
        adapted(tiny, &bytes, Accepts::default()),
        Err(Fault::Malformed)
    );
}

#[test]
fn what_only_a_device_may_say_does_not_reach_the_receiver() {
    let header = NetHeader {
        flags: 0xfe,
        csum_start: 5,
        num_buffers: 77,
        hdr_len: 9,
        ..NetHeader::default()
    };
    let plain = NetHeader {
        num_buffers: 1,
        ..NetHeader::default()
    };
    assert_eq!(check(&header, 64, ALL), Some(plain));
}
