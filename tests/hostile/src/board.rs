//! QEMU's `virt` board with GICv3, where this program runs and nowhere else.

/// PL011.
pub(crate) const UART: u64 = 0x0900_0000;
/// GIC distributor.
pub(crate) const GICD: u64 = 0x0800_0000;
/// Interrupt translation service: two frames.
pub(crate) const ITS: u64 = 0x0808_0000;
/// Redistributors: two frames a CPU.
pub(crate) const GICR: u64 = 0x080A_0000;
/// Bytes of a redistributor.
pub(crate) const GICR_STRIDE: u64 = 0x2_0000;
/// QEMU's firmware configuration device.
pub(crate) const FW_CFG: u64 = 0x0902_0000;
/// First byte of RAM.
pub(crate) const RAM: u64 = 0x4000_0000;
/// INTID of the EL1 physical timer.
pub(crate) const TIMER_INTID: u32 = 30;
