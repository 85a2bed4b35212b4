//! Plain descriptions of the devices this crate drives, as a device tree names them.

/// Consecutive GICv3 redistributors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RedistributorRow {
    /// First frame.
    pub base: u64,
    /// Bytes of the row.
    pub size: u64,
    /// Bytes from one redistributor to the next; 0 to go by GICR_TYPER.VLPIS.
    pub stride: u64,
}

/// A kind of UART that can be printed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UartModel {
    /// Arm PrimeCell PL011 (DDI0183).
    Pl011,
    /// 16550 with 32-bit registers `1 << reg_shift` bytes apart.
    Ns16550 {
        /// log2 of the distance of registers.
        reg_shift: u8,
    },
}
