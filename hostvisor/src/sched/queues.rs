//! The run queues of all CPUs: where a task goes, who gets a CPU, who is to be woken.

use super::cpus::CpuSet;
use super::fair::{Claim, Companions, FairQueue, Tuning};
use crate::hw::Mutex;
use abi::MAX_CPUS;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How often at most, in milliseconds, a CPU hands a task on, or is handed one, although loads are as level as
/// they can be. Not a multiple of two slices: of two that take turns on a CPU the same one would always go.
pub const ROTATION: u64 = 50;

/// Slice in milliseconds, while few wait for a CPU and while many do. The first is a multiple of the second, so that
/// slices end together on CPUs of unequal load.
const SLICE: u64 = 8;
const SHORT_SLICE: u64 = 4;
/// How many are many.
const MANY: u64 = 4;

/// [`Queue::pressure`]: who has the CPU is to give way, or has. Below it: how many wait.
const PREEMPT: u32 = 1 << 31;

struct Queue<T> {
    fair: Mutex<FairQueue<T>>,
    /// Length of `fair` and [`PREEMPT`], readable without the lock.
    pressure: AtomicU32,
    /// Load of `fair`, readable without the lock.
    load: AtomicU64,
    /// Clock of `fair`, readable without the lock.
    clock: AtomicU64,
    /// When a task was last handed on from here, or to here, though loads were level.
    rotated: AtomicU64,
    /// The group that was given the CPU last, for others to follow, and when. Not always of one moment: a wrong one
    /// costs somebody a place in the order, within bounds.
    group: AtomicU64,
    chosen: AtomicU64,
}

impl<T> Queue<T> {
    /// Publishes whose turn it is from now on.
    fn choose(&self, fair: &FairQueue<T>, now: u64) {
        if let Some(group) = fair.group() {
            self.group.store(group, Ordering::Relaxed);
            self.chosen.store(now, Ordering::Relaxed);
        }
    }

    /// Works on the queue, and publishes what others read of it without the lock.
    fn with<R>(&self, work: impl FnOnce(&mut FairQueue<T>) -> (R, Pressure)) -> R {
        let mut fair = self.fair.lock();
        let (answer, pressure) = work(&mut fair);
        let length = fair.len() as u32;
        let flag = match pressure {
            _ if length == 0 => 0,
            Pressure::Keep => self.pressure.load(Ordering::Relaxed) & PREEMPT,
            Pressure::Preempt => PREEMPT,
            Pressure::None => 0,
        };
        self.load.store(fair.load(), Ordering::Relaxed);
        self.clock.store(fair.clock(), Ordering::Relaxed);
        // Before idle CPUs are looked for, or this one is known to be idle.
        self.pressure.store(length | flag, Ordering::SeqCst);
        answer
    }
}

/// What becomes of [`PREEMPT`].
enum Pressure {
    Keep,
    Preempt,
    None,
}

/// The run queues of all CPUs.
pub struct Scheduler<T> {
    queues: [Queue<T>; MAX_CPUS],
    /// Bit n: CPU n sleeps or is about to.
    idle: AtomicU32,
    /// Bit n: CPU n runs tasks.
    online: AtomicU32,
    /// Ticks of the clock in a millisecond.
    millisecond: AtomicU64,
}

/// How a task comes to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It was asleep, or off.
    Woken,
    /// It had the CPU, and may be handed on to another.
    Displaced,
    /// It had the CPU, and lets who is next go first.
    Yielded,
}

/// Whom to wake after queueing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Placed {
    /// That CPU needs no notice: it has had one, or will look by itself.
    Quiet,
    /// Send this CPU an SGI: it sleeps, or has to share its time from now on, or to give way.
    Notify(usize),
    /// Send both an SGI: the first sleeps or has to share its time, unless the second, which sleeps, takes a
    /// task away.
    NotifyBoth(usize, usize),
}

impl<T> Default for Scheduler<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Scheduler<T> {
    /// Empty queues, no CPU.
    #[must_use]
    pub const fn new() -> Self {
        let queues = [const {
            Queue {
                fair: Mutex::new(FairQueue::new()),
                pressure: AtomicU32::new(0),
                load: AtomicU64::new(0),
                clock: AtomicU64::new(0),
                rotated: AtomicU64::new(0),
                group: AtomicU64::new(0),
                chosen: AtomicU64::new(0),
            }
        }; MAX_CPUS];
        Self {
            queues,
            idle: AtomicU32::new(0),
            online: AtomicU32::new(0),
            millisecond: AtomicU64::new(1000),
        }
    }

    /// Tells how fast the clock is.
    pub fn set_millisecond(&self, ticks: u64) {
        self.millisecond.store(ticks.max(1), Ordering::Relaxed);
    }

    /// CPU `cpu` runs tasks from now on.
    pub fn add_cpu(&self, cpu: usize) {
        self.online
            .fetch_or(CpuSet::one(cpu).bits(), Ordering::SeqCst);
    }

    /// CPUs that run tasks.
    #[must_use]
    pub fn online(&self) -> CpuSet {
        CpuSet::from_bits(self.online.load(Ordering::Relaxed).into())
    }

    fn queue(&self, cpu: usize) -> &Queue<T> {
        &self.queues[cpu % MAX_CPUS]
    }

    fn tuning(&self) -> Tuning {
        Tuning::new(self.millisecond.load(Ordering::Relaxed))
    }

    /// Queues a Runnable task that last ran on `home`: on a CPU of its affinity that sleeps, best `home`;
    /// else on the one with the least load, best `home`.
    pub fn enqueue(
        &self,
        task: T,
        mut claim: Claim,
        home: usize,
        arrival: Arrival,
        now: u64,
    ) -> Placed {
        let allowed = claim.affinity.and(self.online());
        let idle = self.take_idle(home, allowed);
        let target = idle.unwrap_or_else(|| self.place(&claim, allowed, home, arrival, now));
        let clock = (target != home).then(|| self.queue(home).clock.load(Ordering::Relaxed));
        let tuning = self.tuning();
        // CPUs that may take a task from there.
        let mut helpers = CpuSet::NONE;
        let (first, preempt) = self.queue(target).with(|fair| {
            let yields = arrival == Arrival::Yielded && target == home;
            if yields {
                claim.vtime = fair.behind_next(claim.vtime);
            }
            let first = fair.is_empty();
            let preempt = fair.push(task, claim, clock, now, &tuning);
            if !first || idle.is_none() {
                // Not only the newcomer's: who waits already, for this CPU to wake, may have to give way to it.
                helpers = fair.affinities();
            }
            let pressure = if preempt || yields {
                Pressure::Preempt
            } else {
                Pressure::Keep
            };
            ((first, preempt), pressure)
        });
        // Or fell asleep between the choice and the queueing, and have not seen the task.
        let helper = self.take_idle(home, helpers.and(self.online()));
        match (helper, first || preempt || idle.is_some()) {
            (Some(idle), true) => Placed::NotifyBoth(target, idle),
            (Some(idle), false) => Placed::Notify(idle),
            (None, true) => Placed::Notify(target),
            (None, false) => Placed::Quiet,
        }
    }

    /// Chooses among CPUs none of which sleeps.
    fn place(
        &self,
        claim: &Claim,
        allowed: CpuSet,
        home: usize,
        arrival: Arrival,
        now: u64,
    ) -> usize {
        let load = |cpu: usize| self.queue(cpu).load.load(Ordering::Relaxed);
        // From the next one on, so that it is not always the same one's turn among equals.
        let others = (1..MAX_CPUS)
            .map(|n| (home + n) % MAX_CPUS)
            .filter(|&cpu| allowed.contains(cpu));
        let Some(best) = others.min_by_key(|&cpu| load(cpu)) else {
            return home;
        };
        let (here, there) = (load(home), load(best));
        if !allowed.contains(home) || there < here {
            return best;
        }
        let own = self.queue(home);
        let pause = ROTATION * self.millisecond.load(Ordering::Relaxed);
        let paused = now.saturating_sub(own.rotated.load(Ordering::Relaxed)) < pause;
        if arrival == Arrival::Woken || paused {
            return home;
        }
        let level = here.saturating_add(claim.weight.into());
        let target = if there < level {
            // The other would be the less busy one without it: time to take turns.
            Some(best)
        } else if arrival == Arrival::Displaced {
            self.part(claim, allowed, home, level)
        } else {
            None
        };
        let Some(target) = target else { return home };
        for queue in [own, self.queue(target)] {
            queue.rotated.store(now, Ordering::Relaxed);
        }
        target
    }

    /// A CPU of no more than this load with less of the task's group than `home`, where one waits that may come from
    /// there in turn.
    fn part(&self, claim: &Claim, allowed: CpuSet, home: usize, level: u64) -> Option<usize> {
        let here = self.queue(home).fair.lock().load_of(claim.group);
        let fits = |&cpu: &usize| {
            let fair = self.queue(cpu).fair.lock();
            fair.load() <= level
                && fair.load_of(claim.group) < here
                && fair.affinities().contains(home)
        };
        (here != 0).then(|| allowed.iter().find(fits)).flatten()
    }

    /// Takes an idle CPU of `allowed`, best `home`, out of the idle set, so that the next task goes elsewhere.
    fn take_idle(&self, home: usize, allowed: CpuSet) -> Option<usize> {
        let mut idle = self.idle.load(Ordering::SeqCst);
        loop {
            let cpu = CpuSet::from_bits(idle.into()).and(allowed).prefer(home)?;
            let bit = CpuSet::one(cpu).bits();
            let before = self.idle.fetch_and(!bit, Ordering::SeqCst);
            if before & bit != 0 {
                return Some(cpu);
            }
            idle = before;
        }
    }

    /// Gives `cpu`, whose task has left it, the next one: of its own queue, else one that may run on it
    /// from another.
    pub fn pick(&self, cpu: usize, now: u64) -> Option<T> {
        let own = self.queue(cpu);
        own.with(|fair| {
            let task = fair.pop(|| self.bounds(cpu, now), now);
            own.choose(fair, now);
            (task, Pressure::None)
        })
        .or_else(|| self.steal(cpu, now))
    }

    /// What bounds the next choice for `cpu`, and groups that others have begun to run within the last half short
    /// slice: none where who has the CPU gives way to one that preempts it, or yields.
    fn bounds(&self, cpu: usize, now: u64) -> (Companions, Tuning) {
        let mut companions = Companions::default();
        if !self.pressure(cpu).1 {
            let recent = SHORT_SLICE / 2 * self.millisecond.load(Ordering::Relaxed);
            for (n, queue) in self.queues.iter().enumerate() {
                if n != cpu && now.saturating_sub(queue.chosen.load(Ordering::Relaxed)) < recent {
                    companions.add(queue.group.load(Ordering::Relaxed));
                }
            }
        }
        (companions, self.tuning())
    }

    fn steal(&self, cpu: usize, now: u64) -> Option<T> {
        let others = (1..MAX_CPUS).map(|n| self.queue(cpu + n));
        let (task, claim, clock) = others
            .filter(|queue| queue.pressure.load(Ordering::SeqCst) != 0)
            .find_map(|queue| {
                let (task, claim) = queue.with(|fair| (fair.steal(cpu), Pressure::Keep))?;
                Some((task, claim, queue.clock.load(Ordering::Relaxed)))
            })?;
        let tuning = self.tuning();
        let own = self.queue(cpu);
        own.with(|fair| {
            fair.adopt(claim, clock, now, &tuning);
            own.choose(fair, now);
            ((), Pressure::Keep)
        });
        Some(task)
    }

    /// Charges the task that has `cpu` for its time up to `now`; its virtual time. By that CPU.
    pub fn charge(&self, cpu: usize, now: u64) -> u64 {
        self.queue(cpu)
            .with(|fair| (fair.charge(now), Pressure::Keep))
    }

    /// Charges the task that has `cpu` for its time up to `now`. True if it is the next one still. By that CPU.
    pub fn stays_first(&self, cpu: usize, now: u64) -> bool {
        let own = self.queue(cpu);
        let (companions, tuning) = self.bounds(cpu, now);
        own.with(|fair| {
            fair.charge(now);
            let stays = fair.stays(&companions, &tuning);
            if stays {
                own.choose(fair, now);
            }
            (stays, Pressure::Keep)
        })
    }

    /// Charges the task that has `cpu` for its time up to `now`, and takes the CPU from it; its virtual time.
    /// By that CPU, whose next step is [`Self::pick`].
    pub fn retire(&self, cpu: usize, now: u64) -> u64 {
        self.queue(cpu).with(|fair| {
            let vtime = fair.charge(now);
            fair.leave();
            (vtime, Pressure::Keep)
        })
    }

    /// True if a task waits for `cpu`.
    #[inline]
    pub fn waiting(&self, cpu: usize) -> bool {
        self.queue(cpu).pressure.load(Ordering::Relaxed) != 0
    }

    /// Whether a task waits for `cpu`, and whether who has the CPU is to give way to it at once.
    #[inline]
    pub fn pressure(&self, cpu: usize) -> (bool, bool) {
        let pressure = self.queue(cpu).pressure.load(Ordering::Relaxed);
        (pressure != 0, pressure & PREEMPT != 0)
    }

    /// Tasks that wait for `cpu`.
    #[inline]
    pub fn length(&self, cpu: usize) -> usize {
        (self.queue(cpu).pressure.load(Ordering::Relaxed) & !PREEMPT) as usize
    }

    /// How long from `now` on the task that has `cpu` may run, if others wait: up to a moment at which slices of all
    /// CPUs end, for 10 ms at most, and for 1 ms at least.
    #[must_use]
    pub fn slice(&self, cpu: usize, now: u64) -> Option<u64> {
        let waiting = self.length(cpu) as u64;
        let millisecond = self.millisecond.load(Ordering::Relaxed);
        let length = millisecond * if waiting < MANY { SLICE } else { SHORT_SLICE };
        let end = (now + length / 4).next_multiple_of(length);
        (waiting != 0).then_some(end - now)
    }

    /// Announces that `cpu` is going to sleep, and looks for a task once more: if there is one, do not sleep.
    pub fn enter_idle(&self, cpu: usize, now: u64) -> Option<T> {
        self.idle
            .fetch_or(CpuSet::one(cpu).bits(), Ordering::SeqCst);
        let task = self.pick(cpu, now);
        if task.is_some() {
            self.leave_idle(cpu);
        }
        task
    }

    /// `cpu` is awake again.
    pub fn leave_idle(&self, cpu: usize) {
        self.idle
            .fetch_and(!CpuSet::one(cpu).bits(), Ordering::SeqCst);
    }
}

#[cfg(test)]
impl<T> Scheduler<T> {
    /// Works while nobody can get at the queue of `cpu`.
    pub(super) fn with_locked<R>(&self, cpu: usize, work: impl FnOnce() -> R) -> R {
        let _guard = self.queue(cpu).fair.lock();
        work()
    }
}
