//! No wake-up is ever lost: CPUs that sleep in WFI and wake each other thousands of times.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use crate::console::println;
use crate::cpu::{self, mmio};
use crate::gic::{self, count};
use crate::platform;
use crate::runner::others;
use crate::smp;
use crate::timer::{Timer, micros, now, ticks};
use crate::verdict::{Verdict, check, check_eq};

/// The SGI with which CPUs wake each other.
const WAKE: u32 = 7;
/// How long a sleep may last before the watchdog calls it lost.
const LOST_MS: u64 = 4000;
/// Sleeps that only the watchdog ended.
static LOST: AtomicU32 = AtomicU32::new(0);

/// Sleeps in WFI until `woken`, with the virtual timer as a watchdog; false if that had to end it.
fn sleep(woken: impl Fn() -> bool) -> bool {
    let index = cpu::index();
    let timer = Timer::Virtual;
    let barks = count(index, timer.intid());
    timer.arm(timer.count() + ticks(LOST_MS));
    cpu::sleep_until(|| woken() || count(index, timer.intid()) != barks);
    timer.control(0);
    let ok = woken() && count(index, timer.intid()) == barks;
    if !ok {
        LOST.fetch_add(1, Ordering::SeqCst);
    }
    ok
}

/// An interrupt that is pending before WFI ends it.
pub(crate) fn self_wakeups() -> Verdict {
    LOST.store(0, Ordering::SeqCst);
    for round in 0..2000 {
        let before = count(0, WAKE);
        gic::send(cpu::mpidr(), WAKE);
        if !sleep(|| count(0, WAKE) != before) {
            check_eq!(round, 2000, "lost a wake-up by an SGI to myself in round");
        }
    }
    // An unmasked interrupt source that is not enabled does not end it: the timer does.
    let before = count(0, Timer::Virtual.intid());
    Timer::Virtual.arm(now() + ticks(10));
    cpu::sleep_until(|| count(0, Timer::Virtual.intid()) != before);
    Ok(())
}

/// Where the ball is: CPU index.
static BALL: AtomicUsize = AtomicUsize::new(0);
/// The RTC's alarm wakes a CPU that sleeps, and nobody looks at the RTC meanwhile.
pub(crate) fn rtc_alarm() -> Verdict {
    const RTC: u64 = 0x0901_0000;
    const MATCH: u64 = RTC + 0x04;
    const MASK: u64 = RTC + 0x10;
    const CLEAR: u64 = RTC + 0x1c;
    const INTID: u32 = 34;
    gic::set_edge(INTID, false);
    gic::set_priority(INTID, gic::PRIORITY);
    gic::route(INTID, cpu::mpidr());
    gic::hook(
        INTID,
        Some(|_| {
            mmio::write32(MASK, 0);
            mmio::write32(CLEAR, 1);
        }),
    );
    gic::enable(INTID);
    mmio::write32(CLEAR, 1);
    let before = count(0, INTID);
    let due = mmio::read32(RTC) + 1;
    mmio::write32(MATCH, due);
    mmio::write32(MASK, 1);
    check!(
        sleep(|| count(0, INTID) != before),
        "the alarm did not ring within {LOST_MS} ms"
    );
    let now = mmio::read32(RTC);
    check!(
        (due..=due + 2).contains(&now),
        "the alarm set for {due} rang at {now}"
    );
    check_eq!(count(0, INTID), before + 1, "alarms taken");
    gic::disable(INTID);
    gic::hook(INTID, None);
    Ok(())
}

static HITS: AtomicU32 = AtomicU32::new(0);
static PLAYERS: AtomicUsize = AtomicUsize::new(0);
static PARTNER: AtomicUsize = AtomicUsize::new(0);
static OVER: AtomicBool = AtomicBool::new(false);

/// Waits for the ball, hits it on, until `rounds` hits are made. An MMIO read in between makes exits
/// of another kind mix in.
fn play(index: usize, next: impl Fn() -> usize, rounds: u32) {
    while !OVER.load(Ordering::SeqCst) {
        if !sleep(|| BALL.load(Ordering::SeqCst) == index || OVER.load(Ordering::SeqCst)) {
            OVER.store(true, Ordering::SeqCst);
        }
        if OVER.load(Ordering::SeqCst) {
            break;
        }
        let hits = HITS.fetch_add(1, Ordering::SeqCst) + 1;
        if hits >= rounds {
            OVER.store(true, Ordering::SeqCst);
            break;
        }
        if hits & 15 == 0 {
            mmio::read32(crate::console::UART + 0x18);
        }
        let to = next();
        BALL.store(to, Ordering::SeqCst);
        gic::send(platform::mpidr(to), WAKE);
    }
    for other in 0..PLAYERS.load(Ordering::SeqCst) {
        gic::send(platform::mpidr(other), WAKE);
    }
}

fn begin(first: usize) {
    OVER.store(false, Ordering::SeqCst);
    LOST.store(0, Ordering::SeqCst);
    HITS.store(0, Ordering::SeqCst);
    PLAYERS.store(platform::cpus(), Ordering::SeqCst);
    BALL.store(first, Ordering::SeqCst);
}

fn result(rounds: u32, start: u64, what: &str) -> Verdict {
    check_eq!(LOST.load(Ordering::SeqCst), 0, "wake-ups lost");
    check!(
        HITS.load(Ordering::SeqCst) >= rounds,
        "only {} of {rounds} rounds",
        HITS.load(Ordering::SeqCst)
    );
    println!(
        "{what}: {} us for each wake-up",
        micros(now() - start) / u64::from(rounds)
    );
    Ok(())
}

/// CPU 0 and each other CPU wake each other in turn.
pub(crate) fn ping_pong() -> Verdict {
    const ROUNDS: u32 = 2000;
    for partner in others()? {
        begin(0);
        PARTNER.store(partner, Ordering::SeqCst);
        let start = now();
        smp::submit(partner, |index| play(index, || 0, ROUNDS));
        play(0, || PARTNER.load(Ordering::SeqCst), ROUNDS);
        check!(
            crate::timer::wait_for(10_000, || smp::is_done(partner)),
            "cpu {partner} did not come back"
        );
        result(ROUNDS, start, "wfi-ping-pong")?;
    }
    Ok(())
}

/// All CPUs sleep; a ball goes round and wakes one after the other.
pub(crate) fn ring() -> Verdict {
    const ROUNDS: u32 = 4000;
    smp::start_all()?;
    begin(0);
    let start = now();
    smp::run_on_all(10_000, |index| {
        play(
            index,
            || (cpu::index() + 1) % PLAYERS.load(Ordering::SeqCst),
            ROUNDS,
        )
    })?;
    result(ROUNDS, start, "wfi-ring")
}
