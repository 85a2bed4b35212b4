//! QEMU's `virt` board with GICv3, where this program runs and nowhere else.

/// PL011.
pub const UART: u64 = 0x0900_0000;
/// GIC distributor.
pub const GICD: u64 = 0x0800_0000;
/// Interrupt translation service: two frames.
pub const ITS: u64 = 0x0808_0000;
/// Redistributors: two frames a CPU.
pub const GICR: u64 = 0x080A_0000;
/// Bytes of a redistributor.
pub const GICR_STRIDE: u64 = 0x2_0000;
/// First byte of RAM.
pub const RAM: u64 = 0x4000_0000;
/// INTID of the EL1 physical timer.
pub const TIMER_INTID: u32 = 30;
