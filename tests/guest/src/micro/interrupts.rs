//! Interrupts of one vCPU: its own SGI, its timer, waking up.

use super::meter::{Meter, ROUNDS, WINDOWS};
use crate::cpu::{self, write_reg};
use crate::gic::{self, count};
use crate::platform;
use crate::timer::Timer;
use crate::verdict::Verdict;

/// The SGI that is sent: not the one that starts jobs.
pub(super) const SGI: u32 = 6;
/// The INTID of "no interrupt": its end has no effect but the write itself.
const SPURIOUS: u64 = 1023;

/// Writes the end-of-interrupt register.
pub(super) fn end_of_interrupt(meter: &Meter) -> Verdict {
    meter.rounds(|| write_reg!("icc_eoir1_el1", SPURIOUS));
    Ok(())
}

/// Sends itself an SGI and waits until the handler had it.
pub(super) fn to_self(meter: &Meter) -> Verdict {
    gic::enable(SGI);
    meter.rounds(|| {
        let before = count(0, SGI);
        gic::send(platform::mpidr(0), SGI);
        while count(0, SGI) == before {}
    });
    Ok(())
}

/// Arms the virtual timer for now and waits until the handler had it.
pub(super) fn timer(meter: &Meter) -> Verdict {
    let timer = Timer::Virtual;
    meter.rounds(|| {
        let before = count(0, timer.intid());
        timer.arm(timer.count());
        while count(0, timer.intid()) == before {}
    });
    Ok(())
}

/// Sleeps in WFI until the timer fires. Ticks: from the deadline to behind the handler. Instructions: going to
/// sleep, too.
pub(super) fn wake(meter: &Meter) -> Verdict {
    let timer = Timer::Virtual;
    // Long enough for every hypervisor to be idle by then.
    let sleep = crate::timer::ticks(1) / 4;
    meter.latencies(WINDOWS, ROUNDS, || {
        let before = count(0, timer.intid());
        let deadline = timer.count() + sleep;
        timer.arm(deadline);
        cpu::sleep_until(|| count(0, timer.intid()) != before);
        timer.count() - deadline
    });
    Ok(())
}
