//! Timers and time.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::console::println;
use crate::cpu;
use crate::gic::count;
use crate::smp;
use crate::timer::{Timer, frequency, micros, now, ticks, wait_for};
use crate::verdict::{Verdict, check, check_eq, fail};

/// Interrupts come after their deadline, each once, whether the CPU runs or sleeps.
fn interrupts(timer: Timer) -> Verdict {
    let intid = timer.intid();
    let mut latest = 0;
    for round in 0..40u64 {
        let before = count(0, intid);
        let deadline = timer.count() + ticks(2);
        timer.arm(deadline);
        if round % 2 == 0 {
            cpu::sleep_until(|| count(0, intid) != before);
        } else if !wait_for(2000, || count(0, intid) != before) {
            fail!("INTID {intid} did not arrive within 2 s (round {round})");
        }
        let late = timer.count() as i64 - deadline as i64;
        check!(late >= 0, "INTID {intid} came {} ticks early", -late);
        latest = latest.max(late as u64);
    }
    // A deadline in the past fires at once; a masked or disabled timer does not.
    let before = count(0, intid);
    timer.arm(timer.count().saturating_sub(1000));
    check!(
        wait_for(1000, || count(0, intid) != before),
        "a deadline in the past does not fire"
    );
    let before = count(0, intid);
    timer.arm(u64::MAX >> 1);
    timer.control(3);
    timer.arm_in(-5);
    check!(
        wait_for(1000, || count(0, intid) != before),
        "a negative TVAL does not fire"
    );
    let before = count(0, intid);
    timer.control(0);
    timer.control(3);
    cpu::barrier();
    wait_for(5, || false);
    check_eq!(count(0, intid), before, "a masked timer fired");
    check!(
        timer.status() & 4 != 0,
        "ISTATUS is not set on a masked timer past its deadline"
    );
    timer.control(0);
    println!(
        "timer {intid}: latest interrupt {} us after its deadline",
        micros(latest)
    );
    Ok(())
}

pub(crate) fn virtual_timer() -> Verdict {
    interrupts(Timer::Virtual)
}

pub(crate) fn physical_timer() -> Verdict {
    interrupts(Timer::Physical)
}

/// TVAL counts down, CTL reads back, and each timer has its own registers.
pub(crate) fn registers() -> Verdict {
    check!(
        (1_000_000..=1_000_000_000).contains(&frequency()),
        "CNTFRQ_EL0 is {}",
        frequency()
    );
    for timer in [Timer::Virtual, Timer::Physical] {
        let what = timer.intid();
        timer.control(0);
        timer.arm_in(0x1000_0000);
        check_eq!(timer.status() & 7, 1, "CTL of timer {what}, armed far away");
        let left = timer.remaining();
        check!(
            left > 0x0800_0000 && left <= 0x1000_0000,
            "TVAL of timer {what} reads {left:#x}"
        );
        timer.control(2);
        check_eq!(
            timer.status() & 3,
            2,
            "CTL of timer {what}, disabled and masked"
        );
        timer.control(0);
    }
    Ok(())
}

static LATEST: AtomicU64 = AtomicU64::new(0);
static BACKWARDS: AtomicU64 = AtomicU64::new(0);

/// No CPU ever reads a time earlier than one that another CPU has read before.
pub(crate) fn monotonic() -> Verdict {
    LATEST.store(now(), Ordering::SeqCst);
    smp::run_on_all(10_000, |_| {
        let end = now() + ticks(300);
        loop {
            let seen = LATEST.load(Ordering::SeqCst);
            let mine = now();
            if mine < seen {
                BACKWARDS.store(seen - mine, Ordering::SeqCst);
            }
            LATEST.fetch_max(mine, Ordering::SeqCst);
            if mine > end {
                break;
            }
        }
    })?;
    let backwards = BACKWARDS.load(Ordering::SeqCst);
    check!(backwards == 0, "time went back by {backwards} ticks");
    Ok(())
}
