//! The header in front of each frame: `struct virtio_net_hdr_v1` (virtio 1.2 §5.1.6).
//!
//! It says what the sender leaves to do: a checksum, cutting into packets. Guests and the machine's NIC write
//! it, so [`NetHeader::read`] makes no promise about what it holds.

/// Bytes of a header.
pub const LEN: usize = 12;

/// The checksum from `csum_start` on is to be computed into `csum_offset`.
pub const F_NEEDS_CSUM: u8 = 1;

/// Not to be cut.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4, to be cut into segments of `gso_size` bytes.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// May be ORed to the two above: the TCP header has ECN set.
pub const GSO_ECN: u8 = 0x80;

/// What is left to do with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NetHeader {
    /// `F_*`.
    pub flags: u8,
    /// `GSO_*`.
    pub gso_type: u8,
    /// Bytes of all headers, where `gso_type` says something; a hint.
    pub hdr_len: u16,
    /// Bytes of payload of each packet it is to be cut into.
    pub gso_size: u16,
    /// Where the checksum begins, in bytes from the start of the frame.
    pub csum_start: u16,
    /// Where it goes, in bytes from `csum_start`.
    pub csum_offset: u16,
    /// Buffers that the frame was spread over: the receiving side's matter, 1 otherwise.
    pub num_buffers: u16,
}

impl NetHeader {
    /// From its bytes.
    #[must_use]
    pub const fn read(bytes: &[u8; LEN]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h, i, j] = *bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([a, b]),
            gso_size: u16::from_le_bytes([c, d]),
            csum_start: u16::from_le_bytes([e, f]),
            csum_offset: u16::from_le_bytes([g, h]),
            num_buffers: u16::from_le_bytes([i, j]),
        }
    }

    /// To its bytes.
    #[must_use]
    pub const fn bytes(&self) -> [u8; LEN] {
        let [a, b] = self.hdr_len.to_le_bytes();
        let [c, d] = self.gso_size.to_le_bytes();
        let [e, f] = self.csum_start.to_le_bytes();
        let [g, h] = self.csum_offset.to_le_bytes();
        let [i, j] = self.num_buffers.to_le_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h, i, j]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_header_survives_being_written(bytes: [u8; LEN]) {
            prop_assert_eq!(NetHeader::read(&bytes).bytes(), bytes);
        }
    }

    #[test]
    fn fields_are_where_the_standard_has_them() {
        let header = NetHeader {
            flags: F_NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 0x0102,
            gso_size: 0x0304,
            csum_start: 0x0506,
            csum_offset: 0x0708,
            num_buffers: 0x090a,
        };
        assert_eq!(header.bytes(), [1, 1, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9]);
    }
}
