//! What both sides of a split virtqueue share: layout, flags, and when to notify (virtio 1.2 §2.7).
//!
//! The device's side is [`crate::virtio::queue`], for guests; the driver's is [`crate::drivers::queue`], for the
//! machine's devices. They reach memory in ways of their own.

/// VIRTQ_DESC_F_NEXT: another descriptor follows.
pub const NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE: the device writes here.
pub const WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT: the buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;
/// Bytes of a descriptor.
pub const DESCRIPTOR: u64 = 16;

/// VIRTQ_AVAIL_F_NO_INTERRUPT, in the available ring's first word.
pub const NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY, in the used ring's first word.
pub const NO_NOTIFY: u16 = 1;
/// Offset of the index in either ring.
pub const INDEX: u64 = 2;

/// Offset of an available ring's entry `slot`; that behind the last is used_event.
#[inline]
#[must_use]
pub const fn available_entry(slot: u16) -> u64 {
    4 + 2 * slot as u64
}

/// Offset of a used ring's entry `slot`; that behind the last is avail_event.
#[inline]
#[must_use]
pub const fn used_entry(slot: u16) -> u64 {
    4 + 8 * slot as u64
}

/// Bytes of an available ring of `size` entries, with its event index.
#[must_use]
pub const fn available_bytes(size: u16) -> u64 {
    available_entry(size) + 2
}

/// Bytes of a used ring of `size` entries, with its event index.
#[must_use]
pub const fn used_bytes(size: u16) -> u64 {
    used_entry(size) + 2
}

/// With VIRTIO_F_EVENT_IDX: whether the other side wants to be told that an index went from `old` to `new`, having
/// asked to be told of entry `event` (§2.7.7.2, §2.7.10.1).
#[inline]
#[must_use]
pub const fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
