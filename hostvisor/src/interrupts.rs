//! The machine's interrupts, polled: after a guest's run ends with one, and after sleep.

use crate::machine::Line;
use crate::{cpu, gic, service, uart};
use abi::MAX_CPUS;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Once;

/// Somebody whose device interrupts.
pub trait Handler: Send + Sync {
    /// The line is active, or was: the device is to be asked, and its level falls before this returns. Called with
    /// no lock held.
    fn handle(&self);
}

/// Who hears of a shared peripheral interrupt, in order of INTIDs; several may share one.
static HANDLERS: Once<Vec<(u32, Arc<dyn Handler>)>> = Once::new();

/// INTID of the hostvisor's own timer.
static TIMER: AtomicU32 = AtomicU32::new(30);

/// Tells the INTID of the EL1 physical timer.
pub fn set_timer(intid: u32) {
    TIMER.store(intid, Ordering::Relaxed);
}

/// Gives the devices' interrupts to their handlers, once, and spreads them over the CPUs that are online.
pub fn install(mut handlers: Vec<(Line, Arc<dyn Handler>)>) {
    handlers.sort_by_key(|(line, _)| line.intid);
    let mut lines: Vec<_> = handlers.iter().map(|&(line, _)| line).collect();
    lines.dedup_by_key(|line| line.intid);
    let table = handlers
        .into_iter()
        .map(|(line, handler)| (line.intid, handler));
    let table = table.collect();
    let table = HANDLERS.call_once(|| table);
    let online = (0..MAX_CPUS)
        .map(cpu::get)
        .filter(|cpu| cpu.online.load(Ordering::Acquire));
    for (line, cpu) in lines.into_iter().zip(online.cycle()) {
        gic::set_trigger(line.intid, line.edge);
        gic::enable_spi(line.intid, cpu.mpidr.load(Ordering::Relaxed));
    }
    // A line that rose before it was taken for an edge, while its device was polled, would never rise again.
    for (_, handler) in table {
        handler.handle();
    }
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
        } else if intid >= gic::FIRST_SPI {
            dispatch(HANDLERS.get().map_or(&[], Vec::as_slice), intid);
        }
        interrupt.end();
        if intid == gic::vtimer() {
            // It came before it had been made active, and is not active any more.
            gic::vtimer_was_deactivated(me);
        }
    }
}

/// Calls everybody who is to hear of `intid`.
fn dispatch(table: &[(u32, Arc<dyn Handler>)], intid: u32) {
    let first = table.partition_point(|&(other, _)| other < intid);
    let all = table.iter().skip(first);
    for (_, handler) in all.take_while(|&&(other, _)| other == intid) {
        handler.handle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Counter(AtomicU32);

    impl Handler for Counter {
        fn handle(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_that_share_a_line_are_asked_and_nobody_else() {
        let counters: [Arc<Counter>; 4] = Default::default();
        let intids = [35, 36, 36, 38];
        let table: Vec<(u32, Arc<dyn Handler>)> = intids
            .iter()
            .zip(&counters)
            .map(|(&intid, c)| (intid, c.clone() as Arc<dyn Handler>))
            .collect();
        for intid in [36, 37, 38, 39, 34] {
            dispatch(&table, intid);
        }
        let counts = counters.each_ref().map(|c| c.0.load(Ordering::Relaxed));
        assert_eq!(counts, [0, 1, 1, 1]);
    }
}
