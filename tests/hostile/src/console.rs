//! Lines on the UART, whole ones even when several CPUs talk.

use crate::board;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

static BUSY: AtomicBool = AtomicBool::new(false);

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the PL011's flag and data registers (UARTFR.TXFF), mapped as device memory.
            unsafe {
                while ((board::UART + 0x18) as *const u32).read_volatile() & 1 << 5 != 0 {}
                (board::UART as *mut u32).write_volatile(u32::from(byte));
            }
        }
        Ok(())
    }
}

/// Prints a line.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    while BUSY.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    let _ = write!(Uart, "{text}\r\n");
    BUSY.store(false, Ordering::Release);
}

/// Prints last words, whoever holds the UART.
pub(crate) fn last_words(text: fmt::Arguments<'_>) {
    let _ = write!(Uart, "\r\n{text}\r\n");
}

/// `println!`, by UART.
macro_rules! say {
    ($($text:tt)*) => { $crate::console::line(format_args!($($text)*)) };
}
pub(crate) use say;
