//! Two vCPUs: on one CPU they take turns, on two they interrupt each other.

use core::sync::atomic::{AtomicBool, Ordering};

use super::exits::use_fp;
use super::interrupts::SGI;
use super::meter::{Meter, ROUNDS, WINDOWS};
use crate::cpu::{self, instruction};
use crate::gic::{self, count};
use crate::timer::{now, ticks, wait_for};
use crate::verdict::{Verdict, fail};
use crate::{platform, smp};

/// The partner knows which interrupts it has seen.
static READY: AtomicBool = AtomicBool::new(false);
/// Ends the partner's job, at its next interrupt.
static STOP: AtomicBool = AtomicBool::new(false);
/// Whether the partners use FP between switches.
static FP: AtomicBool = AtomicBool::new(false);

/// Runs `measurement` while the second vCPU does `job`.
fn with_partner(job: smp::Job, measurement: impl FnOnce()) -> Verdict {
    smp::start_all()?;
    STOP.store(false, Ordering::SeqCst);
    READY.store(false, Ordering::SeqCst);
    gic::enable(SGI);
    smp::submit(1, job);
    if !wait_for(1000, || READY.load(Ordering::SeqCst)) {
        fail!("the second vCPU did not start");
    }
    measurement();
    STOP.store(true, Ordering::SeqCst);
    gic::send(platform::mpidr(1), SGI);
    if !wait_for(1000, || smp::is_done(1)) {
        fail!("the second vCPU did not stop");
    }
    Ok(())
}

/// Answers each SGI with one, asleep in between.
fn answer(_: usize) {
    gic::enable(SGI);
    let mut seen = count(1, SGI);
    READY.store(true, Ordering::SeqCst);
    while !STOP.load(Ordering::SeqCst) {
        cpu::sleep_until(|| count(1, SGI) != seen);
        seen = count(1, SGI);
        if FP.load(Ordering::SeqCst) {
            use_fp();
        }
        gic::send(platform::mpidr(0), SGI);
    }
}

/// Takes SGIs asleep.
fn sleep(_: usize) {
    gic::enable(SGI);
    READY.store(true, Ordering::SeqCst);
    while !STOP.load(Ordering::SeqCst) {
        let seen = count(1, SGI);
        cpu::sleep_until(|| count(1, SGI) != seen || STOP.load(Ordering::SeqCst));
    }
}

/// Takes SGIs awake.
fn spin(_: usize) {
    gic::enable(SGI);
    READY.store(true, Ordering::SeqCst);
    while !STOP.load(Ordering::SeqCst) {
        // Lets QEMU, which runs one CPU at a time under -icount, go on to the other.
        instruction!("yield");
    }
}

/// Each round is an SGI to the partner and one back, and on one CPU two switches.
fn ping_pong(meter: &Meter, fp: bool) -> Verdict {
    FP.store(fp, Ordering::SeqCst);
    with_partner(answer, || {
        meter.windows(WINDOWS, 125, 2, || {
            let seen = count(0, SGI);
            gic::send(platform::mpidr(1), SGI);
            cpu::sleep_until(|| count(0, SGI) != seen);
            if fp {
                use_fp();
            }
        });
    })
}

/// From one vCPU to another: SGI, WFI, the other's wake-up.
pub(super) fn switch(meter: &Meter) -> Verdict {
    ping_pong(meter, false)
}

/// The same, each vCPU using FP after every switch.
pub(super) fn switch_fp(meter: &Meter) -> Verdict {
    ping_pong(meter, true)
}

/// Ticks from sending an SGI until the partner's handler had it.
fn interrupt_partner() -> u64 {
    let seen = count(1, SGI);
    let begin = now();
    gic::send(platform::mpidr(1), SGI);
    while count(1, SGI) == seen {
        instruction!("yield");
    }
    now() - begin
}

/// An SGI to a vCPU that runs on another CPU.
pub(super) fn ipi_running(meter: &Meter) -> Verdict {
    with_partner(spin, || meter.latencies(WINDOWS, ROUNDS, interrupt_partner))
}

/// An SGI to a vCPU that sleeps, whose CPU is idle.
pub(super) fn ipi_blocked(meter: &Meter) -> Verdict {
    // Long enough for every hypervisor to be idle by then. The guest's own instructions meanwhile are not counted
    // as the operation's.
    let idle = ticks(1) / 40;
    with_partner(sleep, || {
        meter.latencies(WINDOWS, ROUNDS, || {
            let latency = interrupt_partner();
            let end = now() + idle;
            while now() < end {
                instruction!("yield");
            }
            latency
        });
    })
}
