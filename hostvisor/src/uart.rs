//! The machine's PL011 (Arm DDI 0183): polled transmission, receive interrupt.

use crate::hw::{self, Mmio, Mutex};
use crate::machine;
use core::fmt;
use spin::Once;

const DR: u64 = 0x0;
const FR: u64 = 0x18;
const CR: u64 = 0x30;
const IMSC: u64 = 0x38;
const ICR: u64 = 0x44;
/// UARTFR.RXFE.
const RX_EMPTY: u32 = 1 << 4;
/// UARTFR.TXFF.
const TX_FULL: u32 = 1 << 5;
/// Receive and receive time-out interrupts.
const RX_INTERRUPTS: u32 = 1 << 4 | 1 << 6;

/// The registers, and whose turn it is to write.
static UART: Once<(Mmio, u32)> = Once::new();
static TURN: Mutex<()> = Mutex::new(());

/// UARTCR: UARTEN, TXE, RXE.
const ENABLE: u32 = 1 | 1 << 8 | 1 << 9;

/// Takes the UART over as firmware set it up (rate and format stay).
pub fn init(uart: &machine::Uart) -> bool {
    let Some(registers) = Mmio::map(uart.registers.base, uart.registers.size) else {
        return false;
    };
    registers.write32(CR, registers.read32(CR) | ENABLE);
    UART.call_once(|| (registers, uart.intid));
    hw::set_panic_output(registers);
    true
}

/// Lets received characters raise the interrupt; answers its INTID.
pub fn enable_receive() -> Option<u32> {
    let &(registers, intid) = UART.get()?;
    registers.write32(ICR, u32::MAX);
    registers.write32(IMSC, RX_INTERRUPTS);
    Some(intid)
}

/// The UART's INTID.
pub fn intid() -> Option<u32> {
    UART.get().map(|&(_, intid)| intid)
}

/// Sends `bytes` as they are.
pub fn write(bytes: &[u8]) {
    let Some(&(registers, _)) = UART.get() else {
        return;
    };
    let _turn = TURN.lock();
    for &byte in bytes {
        while registers.read32(FR) & TX_FULL != 0 {
            hw::relax();
        }
        registers.write32(DR, u32::from(byte));
    }
}

/// Gives all received bytes to `take`. On CPU 0 only.
pub fn receive(mut take: impl FnMut(u8)) {
    let Some(&(registers, _)) = UART.get() else {
        return;
    };
    // Cleared first: a byte that comes after the last look raises the interrupt again.
    registers.write32(ICR, RX_INTERRUPTS);
    while registers.read32(FR) & RX_EMPTY == 0 {
        take((registers.read32(DR) & 0xff) as u8);
    }
}

/// For `write!` before the console is up.
pub struct Plain;

impl fmt::Write for Plain {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}
