//! What a guest gets of the machine while others want it, too.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::console::println;
use crate::cpu::{self, instruction};
use crate::gic::{self, count};
use crate::timer::{Timer, micros, now, ticks, wait_for};
use crate::verdict::{Verdict, check};
use crate::{platform, smp};

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

/// Held while the other CPU is woken.
static LOCK: AtomicBool = AtomicBool::new(false);
/// Wake-ups, those of them that found the lock held, and the longest that one took, in ticks.
static WOKEN: AtomicU64 = AtomicU64::new(0);
static HELD: AtomicU64 = AtomicU64::new(0);
static LATEST: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);

/// Wakes CPU 1 while it holds a lock, which it lets go of right after, as a kernel does that wakes a task or notifies a
/// device; counts how often CPU 1 finds the lock held. Where both have the same CPU of the machine, the sender was
/// taken off it within its exit then.
pub(crate) fn lock_and_wake() -> Verdict {
    const ROUNDS: u64 = 200;
    const WAKE: u32 = 7;
    smp::start_all()?;
    smp::submit(1, |index| {
        for round in 1..=ROUNDS {
            cpu::sleep_until(|| u64::from(count(index, WAKE)) >= round);
            if LOCK.load(Ordering::SeqCst) {
                HELD.fetch_add(1, Ordering::SeqCst);
            }
            let late = now().saturating_sub(SENT.load(Ordering::SeqCst));
            LATEST.fetch_max(late, Ordering::SeqCst);
            WOKEN.store(round, Ordering::SeqCst);
        }
    });
    for round in 1..=ROUNDS {
        // Longer than the sleeper may be behind without preempting.
        let begin = now();
        while now() < begin + ticks(4) {}
        LOCK.store(true, Ordering::SeqCst);
        SENT.store(now(), Ordering::SeqCst);
        gic::send(platform::mpidr(1), WAKE);
        LOCK.store(false, Ordering::SeqCst);
        check!(
            wait_for(1000, || WOKEN.load(Ordering::SeqCst) == round),
            "CPU 1 was not woken in round {round}"
        );
    }
    println!(
        "guest: {ROUNDS} wake-ups, {} found the lock held, {} us at the latest",
        HELD.load(Ordering::SeqCst),
        micros(LATEST.load(Ordering::SeqCst))
    );
    Ok(())
}
