//! Features of network devices (virtio 1.2 §5.1.3), for guests' interfaces and the machine's cards alike.

use super::offload::Accepts;

/// VIRTIO_NET_F_CSUM
pub const CSUM: u64 = 1 << 0;
/// VIRTIO_NET_F_GUEST_CSUM
pub const GUEST_CSUM: u64 = 1 << 1;
/// VIRTIO_NET_F_MTU
pub const MTU: u64 = 1 << 3;
/// VIRTIO_NET_F_MAC
pub const MAC: u64 = 1 << 5;
/// VIRTIO_NET_F_GUEST_TSO4
pub const GUEST_TSO4: u64 = 1 << 7;
/// VIRTIO_NET_F_GUEST_TSO6
pub const GUEST_TSO6: u64 = 1 << 8;
/// VIRTIO_NET_F_HOST_TSO4
pub const HOST_TSO4: u64 = 1 << 11;
/// VIRTIO_NET_F_HOST_TSO6
pub const HOST_TSO6: u64 = 1 << 12;
/// VIRTIO_NET_F_MRG_RXBUF
pub const MRG_RXBUF: u64 = 1 << 15;
/// VIRTIO_NET_F_STATUS
pub const STATUS: u64 = 1 << 16;

/// VIRTIO_NET_S_LINK_UP, in the configuration's status.
pub const LINK_UP: u8 = 1;

/// What these features let a driver leave to the device.
#[must_use]
pub const fn sends(features: u64) -> Accepts {
    Accepts {
        checksum: features & CSUM != 0,
        tso4: features & HOST_TSO4 != 0,
        tso6: features & HOST_TSO6 != 0,
    }
}

/// What they let the device leave to the driver.
#[must_use]
pub const fn takes(features: u64) -> Accepts {
    Accepts {
        checksum: features & GUEST_CSUM != 0,
        tso4: features & GUEST_TSO4 != 0,
        tso6: features & GUEST_TSO6 != 0,
    }
}
