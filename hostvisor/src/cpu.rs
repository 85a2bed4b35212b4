//! The machine's CPUs: what each keeps for itself, and how they call each other.

use crate::hw::Mutex;
use crate::sched::{Arrival, Placed, Scheduler};
use crate::timer::SoftTimers;
use crate::vm::{Alarm, VcpuRef};
use crate::{gic, hw};
use abi::MAX_CPUS;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One CPU. Only it writes the counters; others read them for statistics.
#[repr(align(128))]
pub struct Cpu {
    /// Affinity, for SGIs.
    pub mpidr: AtomicU64,
    /// In its run loop.
    pub online: AtomicBool,
    /// The vCPU here has used up its slice.
    pub slice_over: AtomicBool,
    /// When the slice ends; `u64::MAX` while nobody waits.
    slice_end: AtomicU64,
    /// When the guest here is to be left at latest; `u64::MAX` if that does not matter.
    look_by: AtomicU64,
    /// What CNTP is armed for.
    armed: AtomicU64,
    timers: Mutex<SoftTimers<Alarm>>,
    /// Ticks with a vCPU on it, up to the last one's leaving.
    pub guest_ticks: AtomicU64,
    /// When the vCPU on it came; 0 while there is none.
    pub guest_since: AtomicU64,
    /// Ticks asleep.
    pub idle_ticks: AtomicU64,
    /// When it fell asleep; 0 while it is awake.
    pub asleep_since: AtomicU64,
}

/// Who has more to do than in one go does the rest after this part of a second, 50 us.
const SOON_IN_A_SECOND: u64 = 20_000;

/// An interrupt that was left comes after this part of a second, 500 us, if the guest does not exit before. A vCPU that
/// does nothing but send large frames has 100 us between two; Linux has a TCP sender wait for its frames to be freed if
/// they are those of a millisecond.
const LOOKS_IN_A_SECOND: u64 = 2_000;

/// All CPUs; those beyond the machine's number are never online.
pub static CPUS: [Cpu; MAX_CPUS] = [const {
    Cpu {
        mpidr: AtomicU64::new(0),
        online: AtomicBool::new(false),
        slice_over: AtomicBool::new(false),
        slice_end: AtomicU64::new(u64::MAX),
        look_by: AtomicU64::new(u64::MAX),
        armed: AtomicU64::new(u64::MAX),
        timers: Mutex::new(SoftTimers::new()),
        guest_ticks: AtomicU64::new(0),
        guest_since: AtomicU64::new(0),
        idle_ticks: AtomicU64::new(0),
        asleep_since: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// The run queues.
pub static SCHEDULER: Scheduler<VcpuRef> = Scheduler::new();

/// Adds to a counter that only this CPU writes.
#[inline]
pub fn count(counter: &AtomicU64, by: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

/// CPU `index`, which is below [`MAX_CPUS`].
#[inline]
#[must_use]
pub fn get(index: usize) -> &'static Cpu {
    &CPUS[index % MAX_CPUS]
}

/// Number of CPUs in their run loops; at least 1. CPUs come online in order.
#[must_use]
pub fn online() -> usize {
    CPUS.iter()
        .filter(|cpu| cpu.online.load(Ordering::Relaxed))
        .count()
        .max(1)
}

/// Makes CPU `index` leave its guest, or its sleep, and look what is new. No-op for this CPU.
pub fn notify(index: usize) {
    if index != hw::cpu_index() {
        gic::send_sgi(gic::SGI_LOOK, get(index).mpidr.load(Ordering::Relaxed));
    }
}

/// Queues a Runnable vCPU that last ran on `home`.
pub fn enqueue(vcpu: VcpuRef, home: usize, arrival: Arrival) {
    let now = hw::now();
    let claim = vcpu.claim(now);
    match SCHEDULER.enqueue(vcpu, claim, home, arrival, now) {
        Placed::Quiet => {}
        Placed::Notify(target) => notify(target),
        Placed::NotifyBoth(target, idle) => {
            notify(target);
            notify(idle);
        }
    }
}

impl Cpu {
    /// Arms timer `key`, wherever it was before, to ring `alarm`. On this CPU only.
    pub fn arm(&self, key: u64, deadline: u64, alarm: Alarm) {
        let mut timers = self.timers.lock();
        let before = timers.arm(key, deadline, alarm);
        self.program(timers.next());
        drop(timers);
        drop(before);
    }

    /// Arms timer `key` to ring `alarm` soon: who has more to do than in one go lets others run in between. On this CPU
    /// only.
    pub fn arm_soon(&self, key: u64, alarm: Alarm) {
        let pause = hw::frequency() / SOON_IN_A_SECOND;
        self.arm(key, hw::now().saturating_add(pause), alarm);
    }

    /// Disarms the timer with this key, if it is here. On this CPU only.
    pub fn disarm(&self, key: u64) {
        // The timer stays programmed: an early interrupt is harmless and cheaper than a register write.
        let timer = self.timers.lock().cancel(key);
        drop(timer);
    }

    /// Disarms all timers of VM instance `instance`. From any CPU.
    pub fn forget(&self, instance: u64) {
        self.timers
            .lock()
            .cancel_all(|alarm| alarm.vm().is_some_and(|vm| vm.instance == instance));
    }

    /// Starts a slice of `ticks`, or none.
    pub fn start_slice(&self, ticks: Option<u64>) {
        self.slice_over.store(false, Ordering::Relaxed);
        let end = ticks.map_or(u64::MAX, |t| hw::now().saturating_add(t));
        if end != self.slice_end.load(Ordering::Relaxed) {
            self.slice_end.store(end, Ordering::Relaxed);
            self.program(self.timers.lock().next());
        }
    }

    /// True if a slice runs. One that is over, with nobody waiting at the time, runs no more.
    #[must_use]
    pub fn has_slice(&self) -> bool {
        self.slice_end.load(Ordering::Relaxed) != u64::MAX
    }

    /// Has the vCPU here leave its guest soon, unless it does so by itself. It is not taken back: one that comes too
    /// early is only a look.
    pub fn look_soon(&self) {
        if self.look_by.load(Ordering::Relaxed) == u64::MAX {
            let pause = hw::frequency() / LOOKS_IN_A_SECOND;
            self.look_by
                .store(hw::now().saturating_add(pause), Ordering::Relaxed);
            self.program(u64::MAX);
        }
    }

    /// The end of the slice, or of the time in which nobody looks.
    fn next(&self) -> u64 {
        let slice = self.slice_end.load(Ordering::Relaxed);
        slice.min(self.look_by.load(Ordering::Relaxed))
    }

    fn program(&self, timers: u64) {
        let next = timers.min(self.next());
        // An earlier interrupt than needed is only a look; do not write the registers for it.
        if next < self.armed.load(Ordering::Relaxed) {
            self.armed.store(next, Ordering::Relaxed);
            hw::set_deadline(next);
        }
    }

    /// Does what is due: kicks vCPUs, ends the slice, programs the next deadline. On this CPU only.
    pub fn run_timers(&self) {
        let now = hw::now();
        if now < self.armed.load(Ordering::Relaxed) {
            return;
        }
        if now >= self.slice_end.load(Ordering::Relaxed) {
            self.slice_end.store(u64::MAX, Ordering::Relaxed);
            self.slice_over.store(true, Ordering::Relaxed);
        }
        if now >= self.look_by.load(Ordering::Relaxed) {
            self.look_by.store(u64::MAX, Ordering::Relaxed);
        }
        loop {
            // Not rung under the lock: that may arm, or drop the last reference to a VM.
            let due = self.timers.lock().pop_due(now);
            match due {
                Some(alarm) => alarm.ring(),
                None => break,
            }
        }
        let next = self.timers.lock().next().min(self.next());
        self.armed.store(next, Ordering::Relaxed);
        hw::set_deadline(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On the host the counter stands at 0: a slice of 0 ticks is over at once, one of 1 never is.
    #[test]
    fn a_slice_that_ended_with_nobody_waiting_lets_the_next_one_start() {
        let cpu = get(MAX_CPUS - 1);
        cpu.start_slice(None);
        assert!(!cpu.has_slice());
        cpu.start_slice(Some(0));
        assert!(cpu.has_slice());
        cpu.run_timers();
        assert!(cpu.slice_over.load(Ordering::Relaxed));
        // Nobody gave way to anybody, and the vCPU is still there when somebody comes to wait.
        assert!(!cpu.has_slice());
        cpu.start_slice(Some(1));
        assert!(cpu.has_slice() && !cpu.slice_over.load(Ordering::Relaxed));
        cpu.run_timers();
        assert!(cpu.has_slice() && !cpu.slice_over.load(Ordering::Relaxed));
    }

    #[test]
    fn who_is_to_look_soon_does_so_once() {
        let cpu = get(MAX_CPUS - 2);
        let look_by = || cpu.look_by.load(Ordering::Relaxed);
        cpu.look_soon();
        let first = look_by();
        assert_ne!(first, u64::MAX);
        assert_eq!(cpu.armed.load(Ordering::Relaxed), first);
        // Asked again, it is not put off.
        cpu.look_by.store(first - 1, Ordering::Relaxed);
        cpu.look_soon();
        assert_eq!(look_by(), first - 1);
        // Due.
        cpu.look_by.store(0, Ordering::Relaxed);
        cpu.armed.store(0, Ordering::Relaxed);
        cpu.run_timers();
        assert_eq!(look_by(), u64::MAX);
        assert_eq!(cpu.armed.load(Ordering::Relaxed), u64::MAX);
    }
}
