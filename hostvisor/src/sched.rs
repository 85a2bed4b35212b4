//! Scheduling: the state of each vCPU, and per-CPU run queues of vCPUs.
//!
//! # No wake-up is lost
//!
//! Whoever has something for a vCPU first makes it visible (pending in the vGIC, under its lock), then
//! calls [`RunState::kick`], which always is a read-modify-write of the vCPU's state word. The CPU that
//! runs the vCPU looks at the vGIC only after a read-modify-write or an acquiring load of the same word
//! that shows no kick. So in the word's modification order either
//!
//! - the kick comes first: then the runner sees it (or what it announces) before it enters the guest or
//!   blocks. [`RunState::try_block`] fails if there is a kick; or
//! - the runner's step comes first: then the kicker sees *Running* and sends an SGI, which ends the
//!   guest's run or keeps it from starting; or sees *Blocked*, and makes it runnable again.
//!
//! A CPU goes to sleep by announcing itself idle and *then* looking at its queue once more; whoever
//! queues something looks at the idle set *after* queueing. Both orders are sequentially consistent, so
//! one of the two sees the other. An SGI that comes too early stays pending and ends the WFI.
//!
//! A vCPU is in a queue exactly while it is Runnable; only the CPU that takes it out of the queue makes it
//! Running, and only that CPU takes it out of Running.

use abi::MAX_CPUS;
use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use spin::Mutex;

/// Where a vCPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Phase {
    /// Powered off, not queued.
    Off = 0,
    /// In one run queue.
    Runnable = 1,
    /// On a CPU.
    Running = 2,
    /// Waits for an interrupt.
    Blocked = 3,
}

const PHASE: u32 = 3;
/// Something is new for this vCPU.
const KICK: u32 = 1 << 2;
/// Lowest bit of the CPU it runs or last ran on.
const CPU_SHIFT: u32 = 8;

/// What the kicker has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Kick {
    /// Nothing: it will see for itself.
    Nothing,
    /// Make this CPU leave the guest.
    Interrupt(usize),
    /// It was blocked and is Runnable now: queue it; it last ran on this CPU.
    Enqueue(usize),
}

/// The state word of one vCPU.
pub struct RunState(AtomicU32);

impl Default for RunState {
    fn default() -> Self {
        Self::new()
    }
}

const fn pack(phase: Phase, cpu: usize) -> u32 {
    phase as u32 | (cpu as u32) << CPU_SHIFT
}

impl RunState {
    /// Off.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The phase, and the CPU it runs or last ran on. For statistics.
    #[must_use]
    pub fn get(&self) -> (Phase, usize) {
        let word = self.0.load(Ordering::Relaxed);
        let phase = match word & PHASE {
            0 => Phase::Off,
            1 => Phase::Runnable,
            2 => Phase::Running,
            _ => Phase::Blocked,
        };
        (phase, (word >> CPU_SHIFT) as usize % MAX_CPUS)
    }

    /// Off → Runnable, to be queued by the caller. False if it was not off.
    pub fn power_on(&self, cpu: usize) -> bool {
        let off = |word| (word & PHASE == Phase::Off as u32).then_some(pack(Phase::Runnable, cpu));
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, off)
            .is_ok()
    }

    /// Runnable → Running on `cpu`; forgets kicks, so look at the vGIC afterwards. By the CPU that took it
    /// out of a queue.
    pub fn begin(&self, cpu: usize) {
        self.0.swap(pack(Phase::Running, cpu), Ordering::AcqRel);
    }

    /// True if it has been kicked since the last time; look at the vGIC afterwards. By the runner.
    #[inline]
    pub fn take_kick(&self) -> bool {
        self.0.load(Ordering::Acquire) & KICK != 0
            && self.0.fetch_and(!KICK, Ordering::AcqRel) & KICK != 0
    }

    /// Running → Blocked. False if it has been kicked: it goes on running. By the runner.
    pub fn try_block(&self, cpu: usize) -> bool {
        let (from, to) = (pack(Phase::Running, cpu), pack(Phase::Blocked, cpu));
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Running → Runnable, to be queued by the caller, the runner.
    pub fn give_way(&self, cpu: usize) {
        self.0.swap(pack(Phase::Runnable, cpu), Ordering::AcqRel);
    }

    /// Running → Off. By the runner.
    pub fn power_off(&self, cpu: usize) {
        self.0.swap(pack(Phase::Off, cpu), Ordering::AcqRel);
    }

    /// Tells the vCPU that something is new for it. By anybody.
    pub fn kick(&self) -> Kick {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let blocked = word & PHASE == Phase::Blocked as u32;
            let cpu = (word >> CPU_SHIFT) as usize % MAX_CPUS;
            let new = if blocked {
                pack(Phase::Runnable, cpu)
            } else {
                word | KICK
            };
            match self
                .0
                .compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) if blocked => return Kick::Enqueue(cpu),
                // A kick that is still there has had its SGI.
                Ok(_) if word & (PHASE | KICK) == Phase::Running as u32 => {
                    return Kick::Interrupt(cpu);
                }
                Ok(_) => return Kick::Nothing,
                Err(now) => word = now,
            }
        }
    }
}

struct Queue<T> {
    tasks: Mutex<VecDeque<T>>,
    /// Length of `tasks`, readable without the lock.
    length: AtomicUsize,
}

/// The run queues of all CPUs.
pub struct Scheduler<T> {
    queues: [Queue<T>; MAX_CPUS],
    /// Bit n: CPU n sleeps or is about to.
    idle: AtomicU32,
}

/// Whom to wake after queueing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Placed {
    /// That CPU needs no notice: it has had one, or will look by itself.
    Quiet,
    /// Send this CPU an SGI: it sleeps, or has to share its time from now on.
    Notify(usize),
    /// Send both an SGI: the first has to share its time, unless the second, which just fell asleep, takes
    /// the task away.
    NotifyBoth(usize, usize),
}

impl<T> Default for Scheduler<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Scheduler<T> {
    /// Empty queues.
    #[must_use]
    pub const fn new() -> Self {
        let queues = [const {
            Queue {
                tasks: Mutex::new(VecDeque::new()),
                length: AtomicUsize::new(0),
            }
        }; MAX_CPUS];
        Self {
            queues,
            idle: AtomicU32::new(0),
        }
    }

    fn queue(&self, cpu: usize) -> &Queue<T> {
        &self.queues[cpu % MAX_CPUS]
    }

    /// Queues a Runnable task that last ran on `home`: there if that CPU is idle, else on any idle CPU,
    /// else there.
    pub fn enqueue(&self, task: T, home: usize) -> Placed {
        let (target, was_idle) = self.place(home);
        let queue = self.queue(target);
        let before = {
            let mut tasks = queue.tasks.lock();
            tasks.push_back(task);
            queue.length.fetch_add(1, Ordering::SeqCst)
        };
        if was_idle {
            return Placed::Notify(target);
        }
        // One that fell asleep between the choice and the queueing has not seen the task.
        match (self.take_idle(home), before == 0) {
            (Some(idle), true) => Placed::NotifyBoth(target, idle),
            (Some(idle), false) => Placed::Notify(idle),
            (None, true) => Placed::Notify(target),
            (None, false) => Placed::Quiet,
        }
    }

    /// Chooses a CPU: an idle one if there is any, else `home`.
    fn place(&self, home: usize) -> (usize, bool) {
        let idle = self.take_idle(home);
        (idle.unwrap_or(home), idle.is_some())
    }

    /// Takes an idle CPU, best `home`, out of the idle set, so that the next task goes elsewhere.
    fn take_idle(&self, home: usize) -> Option<usize> {
        let mut idle = self.idle.load(Ordering::SeqCst);
        while idle != 0 {
            let home_bit = idle & 1 << (home % MAX_CPUS);
            let bit = if home_bit != 0 {
                home_bit
            } else {
                idle & idle.wrapping_neg()
            };
            let before = self.idle.fetch_and(!bit, Ordering::SeqCst);
            if before & bit != 0 {
                return Some(bit.trailing_zeros() as usize);
            }
            idle = before;
        }
        None
    }

    /// The next task for `cpu`: from its own queue, else the one that waits longest in another.
    pub fn pick(&self, cpu: usize) -> Option<T> {
        (cpu..cpu + MAX_CPUS).find_map(|n| self.take(n))
    }

    fn take(&self, cpu: usize) -> Option<T> {
        let queue = self.queue(cpu);
        if queue.length.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut tasks = queue.tasks.lock();
        let task = tasks.pop_front()?;
        queue.length.fetch_sub(1, Ordering::SeqCst);
        Some(task)
    }

    /// True if a task waits for `cpu`.
    #[inline]
    pub fn waiting(&self, cpu: usize) -> bool {
        self.length(cpu) != 0
    }

    /// Tasks that wait for `cpu`.
    #[inline]
    pub fn length(&self, cpu: usize) -> usize {
        self.queue(cpu).length.load(Ordering::Relaxed)
    }

    /// Announces that `cpu` is going to sleep. False if there is work after all: do not sleep.
    pub fn enter_idle(&self, cpu: usize) -> bool {
        self.idle.fetch_or(1 << (cpu % MAX_CPUS), Ordering::SeqCst);
        let work = self
            .queues
            .iter()
            .any(|q| q.length.load(Ordering::SeqCst) != 0);
        if work {
            self.leave_idle(cpu);
        }
        !work
    }

    /// `cpu` is awake again.
    pub fn leave_idle(&self, cpu: usize) {
        self.idle
            .fetch_and(!(1 << (cpu % MAX_CPUS)), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
