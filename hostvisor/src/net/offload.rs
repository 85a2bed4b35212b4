//! What a sender has left to do and a receiver does not take over: checksums, and cutting TCP segments.
//!
//! Headers and frames come from guests. Every field is checked before it is used; a frame that does not fit its header
//! is refused.

use super::frame::Frame;
use super::header::{F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, NetHeader};
use crate::hw::Unreachable;
use alloc::vec::Vec;

/// Most packets that a frame is cut into: 64 KiB in packets of 536 bytes, the least that IPv4 networks carry, and
/// some to spare. More than these would be work out of proportion to what the sender did.
const MAX_PACKETS: usize = 160;
/// Bytes of a TCP header without options, and offset of its checksum.
const TCP: usize = 20;
const TCP_CHECKSUM: usize = 16;
/// IP protocol number.
const PROTOCOL_TCP: u8 = 6;
/// TCP flags: FIN, PSH; CWR.
const LAST_ONLY: u8 = 0x09;
const FIRST_ONLY: u8 = 0x80;

/// What a receiver takes without its being done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Accepts {
    /// Frames without checksum.
    pub checksum: bool,
    /// TCP over IPv4 that is not cut.
    pub tso4: bool,
    /// TCP over IPv6 that is not cut.
    pub tso6: bool,
}

impl Accepts {
    /// True if a frame with this header can be handed over as it is.
    #[must_use]
    pub const fn all_of(self, header: &NetHeader) -> bool {
        let gso = match header.gso_type {
            GSO_NONE => true,
            GSO_TCPV4 => self.tso4,
            GSO_TCPV6 => self.tso6,
            _ => false,
        };
        gso && (header.flags & F_NEEDS_CSUM == 0 || self.checksum)
    }
}

/// Why a frame is not delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It does not fit its header.
    Malformed,
    /// The sender's memory cannot be reached.
    Unreachable,
}

impl From<Unreachable> for Fault {
    fn from(_: Unreachable) -> Self {
        Self::Unreachable
    }
}

/// Checks a header that a guest or a device has written to a frame of `len` bytes, `sent` being what it may leave
/// to do. Answers it reduced to what means something to a receiver.
#[must_use]
pub fn check(header: &NetHeader, len: usize, sent: Accepts) -> Option<NetHeader> {
    let mut checked = NetHeader {
        num_buffers: 1,
        ..NetHeader::default()
    };
    if header.flags & F_NEEDS_CSUM != 0 {
        let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
        if !sent.checksum || end > len {
            return None;
        }
        checked.flags = F_NEEDS_CSUM;
        checked.csum_start = header.csum_start;
        checked.csum_offset = header.csum_offset;
    }
    if header.gso_type != GSO_NONE {
        let allowed = match header.gso_type {
            GSO_TCPV4 => sent.tso4,
            GSO_TCPV6 => sent.tso6,
            _ => false,
        };
        // §5.1.6.2: segmentation needs the checksum to be left, too.
        let tcp = checked.flags == F_NEEDS_CSUM && usize::from(header.csum_offset) == TCP_CHECKSUM;
        if !allowed || !tcp || header.gso_size == 0 {
            return None;
        }
        checked.gso_type = header.gso_type;
        checked.gso_size = header.gso_size;
        checked.hdr_len = header.hdr_len.min(u16::try_from(len).unwrap_or(u16::MAX));
    }
    Some(checked)
}

/// Calls `each` with the frame as the receiver takes it: itself, or with its checksum filled in, or cut into packets.
/// Goes on with packets after one that `each` fails for; answers the first failure. False if there is no memory to do
/// it in, and `each` has had nothing.
pub fn adapt<E: From<Fault>>(
    frame: &Frame<'_>,
    accepts: Accepts,
    mut each: impl FnMut(&Frame<'_>) -> Result<(), E>,
) -> Result<bool, E> {
    if accepts.all_of(&frame.header) {
        return each(frame).map(|()| true);
    }
    let Some(mut bytes) = frame.to_vec().map_err(Fault::from)? else {
        return Ok(false);
    };
    if frame.header.gso_type != GSO_NONE {
        return cut(&frame.header, &bytes, each);
    }
    let (start, offset) = (frame.header.csum_start, frame.header.csum_offset);
    fill_checksum(&mut bytes, start.into(), offset.into()).ok_or(Fault::Malformed)?;
    let done = NetHeader {
        num_buffers: 1,
        ..NetHeader::default()
    };
    each(&Frame::own(done, &bytes).ok_or(Fault::Malformed)?).map(|()| true)
}

/// One's complement sum of 16-bit words in network order (RFC 1071), not folded.
fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let mut sum: u64 = words
        .by_ref()
        .map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    if let [last] = words.remainder() {
        sum += u64::from(*last) << 8;
    }
    sum
}

/// The checksum of that sum.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Fills in the checksum of all from `start` on. The field holds the sum of the pseudo-header.
fn fill_checksum(bytes: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let part = bytes.get_mut(start..)?;
    // 0 would mean that there is none (UDP); its other form means the same to everybody (RFC 768).
    let checksum = match fold(sum(part)) {
        0 => 0xffff,
        checksum => checksum,
    };
    let field = part.get_mut(offset..)?.first_chunk_mut()?;
    *field = checksum.to_be_bytes();
    Some(())
}

fn put16(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}

fn get16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u16::from_be_bytes(*b))
}

/// Where the headers of a frame that is to be cut are.
struct Headers {
    ip: usize,
    tcp: usize,
    payload: usize,
    v6: bool,
}

impl Headers {
    fn find(header: &NetHeader, bytes: &[u8]) -> Option<Self> {
        let mut ip = super::frame::HEAD;
        let mut kind = get16(bytes, ip - 2)?;
        // One or two VLAN tags (IEEE 802.1Q).
        for _ in 0..2 {
            if matches!(kind, 0x8100 | 0x88a8) {
                ip += 4;
                kind = get16(bytes, ip - 2)?;
            }
        }
        let tcp = usize::from(header.csum_start);
        let v6 = header.gso_type == GSO_TCPV6;
        let first = *bytes.get(ip)?;
        let sound = if v6 {
            // Extension headers may lie between, and stay as they are.
            kind == 0x86dd && first >> 4 == 6 && tcp >= ip + 40
        } else {
            let length = usize::from(first & 0xf) * 4;
            let protocol = *bytes.get(ip + 9)?;
            kind == 0x0800
                && first >> 4 == 4
                && length >= 20
                && tcp == ip + length
                && protocol == PROTOCOL_TCP
        };
        let length = usize::from(*bytes.get(tcp + 12)? >> 4) * 4;
        let payload = tcp + length;
        (sound && length >= TCP && payload <= bytes.len()).then_some(Self {
            ip,
            tcp,
            payload,
            v6,
        })
    }
}

/// Cuts a TCP segment into packets of at most `gso_size` bytes of payload, with all checksums filled in. False as
/// [`adapt`].
fn cut<E: From<Fault>>(
    header: &NetHeader,
    bytes: &[u8],
    mut each: impl FnMut(&Frame<'_>) -> Result<(), E>,
) -> Result<bool, E> {
    let at = Headers::find(header, bytes).ok_or(Fault::Malformed)?;
    let (head, payload) = bytes.split_at_checked(at.payload).ok_or(Fault::Malformed)?;
    let size = usize::from(header.gso_size).max(1);
    let number = payload.len().div_ceil(size).max(1);
    if number > MAX_PACKETS {
        return Err(Fault::Malformed.into());
    }
    let done = NetHeader {
        num_buffers: 1,
        ..NetHeader::default()
    };
    let mut packet = Vec::new();
    let most = head.len() + size.min(payload.len());
    if packet.try_reserve_exact(most).is_err() {
        return Ok(false);
    }
    let mut first_failure = Ok(());
    for n in 0..number {
        let from = (n * size).min(payload.len());
        let piece = payload.get(from..(from + size).min(payload.len()));
        packet.clear();
        packet.extend_from_slice(head);
        packet.extend_from_slice(piece.unwrap_or_default());
        finish_packet(&mut packet, &at, n, from, n + 1 == number).ok_or(Fault::Malformed)?;
        let result = each(&Frame::own(done, &packet).ok_or(Fault::Malformed)?);
        if first_failure.is_ok() {
            first_failure = result;
        }
    }
    first_failure.map(|()| true)
}

/// Makes the headers of packet `n`, whose payload begins at byte `from` of the whole, its own.
fn finish_packet(
    packet: &mut [u8],
    at: &Headers,
    n: usize,
    from: usize,
    is_last: bool,
) -> Option<()> {
    let len = packet.len();
    let (addresses, upper) = if at.v6 {
        put16(packet, at.ip + 4, (len - at.ip - 40) as u16)?;
        (at.ip + 8..at.ip + 40, len - at.tcp)
    } else {
        put16(packet, at.ip + 2, (len - at.ip) as u16)?;
        let id = get16(packet, at.ip + 4)?.wrapping_add(n as u16);
        put16(packet, at.ip + 4, id)?;
        put16(packet, at.ip + 10, 0)?;
        let checksum = fold(sum(packet.get(at.ip..at.tcp)?));
        put16(packet, at.ip + 10, checksum)?;
        (at.ip + 12..at.ip + 20, len - at.tcp)
    };
    let sequence: &mut [u8; 4] = packet.get_mut(at.tcp + 4..)?.first_chunk_mut()?;
    *sequence = u32::from_be_bytes(*sequence)
        .wrapping_add(from as u32)
        .to_be_bytes();
    let flags = packet.get_mut(at.tcp + 13)?;
    if !is_last {
        *flags &= !LAST_ONLY;
    }
    if n != 0 {
        *flags &= !FIRST_ONLY;
    }
    put16(packet, at.tcp + TCP_CHECKSUM, 0)?;
    let pseudo = sum(packet.get(addresses)?) + u64::from(PROTOCOL_TCP) + upper as u64;
    let checksum = fold(pseudo + sum(packet.get(at.tcp..)?));
    put16(packet, at.tcp + TCP_CHECKSUM, checksum)
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
