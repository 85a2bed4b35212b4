//! The machine's interrupts, polled: after a guest's run ends with one, and after sleep.

use crate::{cpu, gic, service, uart};
use core::sync::atomic::{AtomicU32, Ordering};

/// INTID of the hostvisor's own timer.
static TIMER: AtomicU32 = AtomicU32::new(30);

/// Tells the INTID of the EL1 physical timer.
pub fn set_timer(intid: u32) {
    TIMER.store(intid, Ordering::Relaxed);
}

/// Takes all pending interrupts of this CPU.
///
/// SGI 0 and the maintenance interrupt have done their work by ending the guest's run; the guest's
/// timer line is in the run page.
pub fn poll(me: usize) {
    loop {
        let interrupt = gic::acknowledge();
        let intid = interrupt.intid();
        if intid >= gic::SPECIAL {
            return;
        }
        if intid == TIMER.load(Ordering::Relaxed) {
            // Moves the deadline on, so that the line falls before the interrupt is ended.
            cpu::get(me).run_timers();
        } else if Some(intid) == uart::intid() {
            service::receive();
        }
        interrupt.end();
    }
}
