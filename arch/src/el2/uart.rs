//! Polled output for boot messages and the last words of a panic. Never reads input, never enables
//! an interrupt, never reprograms the line speed. Once the hostvisor runs the UART is its own; after
//! that only a stopping machine prints here.

use crate::platform::UartModel;
use core::fmt::{self, Write};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// PL011 data register.
const PL011_DR: u64 = 0x00;
/// PL011 flag register.
const PL011_FR: u64 = 0x18;
/// PL011 line control: 8 bits, FIFOs.
const PL011_LCR_H: u64 = 0x2C;
/// PL011 control register.
const PL011_CR: u64 = 0x30;
/// UARTFR.TXFF: transmit FIFO full.
const PL011_FR_TXFF: u32 = 1 << 5;
/// UARTLCR_H: WLEN = 8 bits, FEN.
const PL011_LCR_H_8N1: u32 = 0b11 << 5 | 1 << 4;
/// UARTCR.UARTEN.
const PL011_CR_UARTEN: u32 = 1 << 0;
/// UARTCR.{TXE, RXE}.
const PL011_CR_BOTH: u32 = 1 << 8 | 1 << 9;
/// 16550 transmit holding register.
const NS16550_THR: u64 = 0;
/// 16550 line status register.
const NS16550_LSR: u64 = 5;
/// LSR.THRE: the transmit holding register is empty.
const NS16550_LSR_THRE: u32 = 1 << 5;
/// Polls before a character is given up, so that a dead UART cannot hang the machine.
const PATIENCE: u32 = 1_000_000;
/// Polls before the lock of another CPU is broken.
const LOCK_PATIENCE: u32 = 100_000_000;

/// The UART's base address; 0 for none.
static BASE: AtomicU64 = AtomicU64::new(0);
/// [`KIND_PL011`], or the register shift of a 16550.
static KIND: AtomicU8 = AtomicU8::new(KIND_PL011);
/// Atomic read-modify-writes need caches on: no locking before that, when only one CPU runs.
static LOCKING: AtomicBool = AtomicBool::new(false);
static BUSY: AtomicBool = AtomicBool::new(false);
const KIND_PL011: u8 = 0xff;

/// Names the UART to print on.
///
/// # Safety
/// `base` is a UART of that model, reachable at its physical address from now on.
pub unsafe fn install(model: UartModel, base: u64) {
    KIND.store(
        match model {
            UartModel::Pl011 => KIND_PL011,
            UartModel::Ns16550 { reg_shift } => reg_shift.min(8),
        },
        Ordering::Relaxed,
    );
    BASE.store(base, Ordering::Relaxed);
    if model == UartModel::Pl011 && read(base + PL011_CR) & PL011_CR_UARTEN == 0 {
        write(base + PL011_LCR_H, PL011_LCR_H_8N1);
        write(base + PL011_CR, PL011_CR_UARTEN | PL011_CR_BOTH);
    }
}

/// Takes a lock around each message from now on. To be called when the caches are on and before the
/// second CPU starts.
pub fn start_locking() {
    LOCKING.store(true, Ordering::Relaxed);
}

/// Prints, whole messages one after the other. Without a UART it does nothing.
pub fn print(message: fmt::Arguments<'_>) {
    let locked = LOCKING.load(Ordering::Relaxed);
    if locked {
        let mut polls = 0;
        while BUSY
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            polls += 1;
            if polls == LOCK_PATIENCE {
                break;
            }
            core::hint::spin_loop();
        }
    }
    // Writing to `Polled` cannot fail; a failing `Display` only cuts the message short.
    let _ = Polled.write_fmt(message);
    if locked {
        BUSY.store(false, Ordering::Release);
    }
}

/// Prints without the lock, which the CPU that panics may hold itself.
pub fn print_unlocked(message: fmt::Arguments<'_>) {
    let _ = Polled.write_fmt(message);
}

struct Polled;

impl Write for Polled {
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
    let base = BASE.load(Ordering::Relaxed);
    if base == 0 {
        return;
    }
    let kind = KIND.load(Ordering::Relaxed);
    let (data, status, mask, ready) = match kind {
        KIND_PL011 => (base + PL011_DR, base + PL011_FR, PL011_FR_TXFF, 0),
        shift => (
            base + (NS16550_THR << shift),
            base + (NS16550_LSR << shift),
            NS16550_LSR_THRE,
            NS16550_LSR_THRE,
        ),
    };
    for _ in 0..PATIENCE {
        if read(status) & mask == ready {
            break;
        }
    }
    write(data, u32::from(byte));
}

fn read(register: u64) -> u32 {
    // SAFETY: a register of the UART that `install`'s caller vouched for.
    unsafe { ptr::read_volatile(register as *const u32) }
}

fn write(register: u64, value: u32) {
    // SAFETY: as in `read`; output registers do not touch memory.
    unsafe { ptr::write_volatile(register as *mut u32, value) };
}
