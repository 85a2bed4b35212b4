//! PL011 output and input, one line at a time.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::cpu::{self, mmio};

/// The UART's base, as on QEMU's `virt`.
pub(crate) const UART: u64 = 0x0900_0000;
const DATA: u64 = 0x00;
const FLAGS: u64 = 0x18;
const FLAG_RX_EMPTY: u32 = 1 << 4;
const FLAG_TX_FULL: u32 = 1 << 5;

/// CPU index + 1 of the lock's holder.
static HOLDER: AtomicUsize = AtomicUsize::new(0);

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

fn put(byte: u8) {
    while mmio::read32(UART + FLAGS) & FLAG_TX_FULL != 0 {}
    mmio::write32(UART + DATA, u32::from(byte));
}

/// One byte from the terminal, if there is one.
pub(crate) fn get() -> Option<u8> {
    if mmio::read32(UART + FLAGS) & FLAG_RX_EMPTY != 0 {
        return None;
    }
    Some(mmio::read32(UART + DATA) as u8)
}

/// Prints a line. A CPU that takes an exception while it prints may print again.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let me = cpu::index() + 1;
    let nested = HOLDER.load(Ordering::Relaxed) == me;
    while !nested
        && HOLDER
            .compare_exchange_weak(0, me, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
    {
        core::hint::spin_loop();
    }
    let _ = Port.write_fmt(text);
    let _ = Port.write_str("\n");
    if !nested {
        HOLDER.store(0, Ordering::Release);
    }
}

/// Prints one line.
macro_rules! println {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}
pub(crate) use println;
