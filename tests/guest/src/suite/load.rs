//! What a guest gets of the machine while others want it, too.

use crate::console::println;
use crate::cpu::{self, instruction};
use crate::gic::count;
use crate::timer::{Timer, micros, now, ticks};
use crate::verdict::{Verdict, check};

/// How long everybody may take to come up.
const BEGIN_MS: u64 = 1000;
/// How long work is counted.
const WORK_MS: u64 = 4000;

/// Counts how much it gets done in a time that passes whether it has a CPU or not; then goes on, so that
/// others that still count have the same company.
pub(crate) fn work() -> Verdict {
    let begin = now() + ticks(BEGIN_MS);
    while now() < begin {}
    let end = now() + ticks(WORK_MS);
    let mut done = 0u64;
    while now() < end {
        (0..100).for_each(|_| instruction!("nop"));
        done += 1;
    }
    println!("guest: work {done}");
    loop {
        instruction!("nop");
    }
}

/// Sleeps until its timer ticks, a hundred times a second; how late it was at the latest.
pub(crate) fn ticks_on_time() -> Verdict {
    const TICKS: u64 = 200;
    const PERIOD_MS: u64 = 10;
    let timer = Timer::Virtual;
    let begin = now();
    let mut latest = 0;
    for tick in 1..=TICKS {
        let due = begin + ticks(PERIOD_MS) * tick;
        let before = count(0, timer.intid());
        timer.arm(due);
        cpu::sleep_until(|| count(0, timer.intid()) != before);
        timer.control(0);
        latest = latest.max(now().saturating_sub(due));
    }
    println!(
        "guest: {TICKS} ticks, {} us late at the latest",
        micros(latest)
    );
    check!(
        micros(latest) < 1_000_000,
        "a tick was late by {} us",
        micros(latest)
    );
    Ok(())
}
