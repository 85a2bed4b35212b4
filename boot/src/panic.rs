//! The last words: a message on the UART, then the machine stops.

use arch::el2::{psci, uart};
use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

/// The firmware takes PSCI calls by SMC, so that it can be asked to switch the machine off.
static CAN_SWITCH_OFF: AtomicBool = AtomicBool::new(false);
/// Some CPU is saying its last words. Plain loads and stores: caches may be off.
static DYING: AtomicBool = AtomicBool::new(false);

/// The firmware is known to answer PSCI by SMC.
pub(crate) fn allow_switch_off() {
    CAN_SWITCH_OFF.store(true, Ordering::Relaxed);
}

/// To be called first: a second panic, of this or another CPU, is silent and ends here.
pub(crate) fn begin() {
    if DYING.load(Ordering::Relaxed) {
        psci::park();
    }
    DYING.store(true, Ordering::Relaxed);
}

/// One line of last words.
pub(crate) fn line(message: fmt::Arguments<'_>) {
    uart::print_unlocked(format_args!("[core] {message}\n"));
}

/// Switches the machine off, other CPUs included; if that cannot be done this CPU is parked.
pub(crate) fn end() -> ! {
    if CAN_SWITCH_OFF.load(Ordering::Relaxed) {
        psci::system_off()
    }
    psci::park()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    begin();
    match info.location() {
        Some(at) => line(format_args!(
            "panic: {}, {}:{}",
            info.message(),
            at.file(),
            at.line()
        )),
        None => line(format_args!("panic: {}", info.message())),
    }
    end()
}

/// Ends a boot that cannot go on, for a reason that is not this program's fault.
pub(crate) fn refuse(reason: fmt::Arguments<'_>) -> ! {
    begin();
    line(format_args!("cannot boot: {reason}"));
    end()
}
