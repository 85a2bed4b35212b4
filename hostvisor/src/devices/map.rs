//! The guest's machine: addresses and interrupts as on QEMU's `virt` board, so that what runs there
//! runs here.

use abi::MAX_VCPUS;

/// The distributor's frame.
pub const GICD_BASE: u64 = 0x0800_0000;
/// Bytes of the distributor's frame.
pub const GICD_SIZE: u64 = 0x1_0000;
/// The first redistributor.
pub const GICR_BASE: u64 = 0x080A_0000;
/// Bytes of one redistributor: control frame and SGI frame.
pub const GICR_STRIDE: u64 = 0x2_0000;
/// Bytes of as many redistributors as a VM can have.
pub const GICR_SIZE: u64 = GICR_STRIDE * MAX_VCPUS as u64;

/// The PL011.
pub const UART_BASE: u64 = 0x0900_0000;
/// Bytes of the PL011's frame.
pub const UART_SIZE: u64 = 0x1000;
/// SPI 1.
pub const UART_INTID: u32 = SPI_BASE + 1;
/// The PL031.
pub const RTC_BASE: u64 = 0x0901_0000;
/// Bytes of the PL031's frame.
pub const RTC_SIZE: u64 = 0x1000;
/// SPI 2.
pub const RTC_INTID: u32 = SPI_BASE + 2;

/// The first virtio-mmio slot.
pub const VIRTIO_BASE: u64 = 0x0A00_0000;
/// From one slot to the next.
pub const VIRTIO_STRIDE: u64 = 0x200;
/// Slots there are.
pub const VIRTIO_SLOTS: u32 = 32;
/// The first slot's SPI, 16.
pub const VIRTIO_INTID: u32 = SPI_BASE + 16;

/// The first byte of RAM.
pub const RAM_BASE: u64 = 0x4000_0000;
/// Widest IPA a VM may use, in bits.
pub const IPA_BITS: u32 = 36;

/// INTID of PPI 0.
pub const PPI_BASE: u32 = 16;
/// INTID of SPI 0.
pub const SPI_BASE: u32 = 32;
/// EL1 virtual timer (PPI 11).
pub const VTIMER_INTID: u32 = PPI_BASE + 11;
/// EL1 physical timer (PPI 14).
pub const PTIMER_INTID: u32 = PPI_BASE + 14;

/// True if `size` bytes at `ipa` lie within the `length` bytes at `base`.
pub(super) const fn within(ipa: u64, size: u64, base: u64, length: u64) -> bool {
    ipa >= base && size <= length && ipa - base <= length - size
}
