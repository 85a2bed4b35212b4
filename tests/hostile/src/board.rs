//! QEMU's `virt` board with GICv3 or GICv2, where this program runs and nowhere else.

/// PL011.
pub(crate) const UART: u64 = 0x0900_0000;
/// GIC distributor.
pub(crate) const GICD: u64 = 0x0800_0000;
/// CPU interface of a GICv2: two pages.
pub(crate) const GICC: u64 = 0x0801_0000;
/// Virtual interface control (GICH) of a GICv2, and room for it.
pub(crate) const GICH: u64 = 0x0803_0000;
/// Virtual CPU interface (GICV) of a GICv2, and room for it.
pub(crate) const GICV: u64 = 0x0804_0000;
/// Bytes of GICH, and of GICV.
pub(crate) const GICV2_FRAME: u64 = 0x1_0000;
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
