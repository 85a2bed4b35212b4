//! One CPU's share of the machine: who waits for it and who has it, ordered by virtual time.
//!
//! Plain data over a clock that is passed in. *Virtual time* is time on a CPU divided by weight: tasks that
//! are always ready advance alike, so whoever is furthest behind runs next, and shares come out in
//! proportion to weights. This is the order of Linux's CFS and of start-time fair queueing (Goyal, Guo, Vin,
//! "A hierarchical CPU scheduler for multimedia operating systems", OSDI 1996).
//!
//! What bounds it:
//!
//! - A CPU has a *clock*: the least virtual time of those that wait for it or have it. It never goes back.
//! - A task that comes from sleep, or from another CPU, keeps its distance from the clock, but is never
//!   more than [`Tuning::credit`] behind: who sleeps saves up no more than that. Nor is it more than
//!   [`Tuning::debt`] ahead.
//! - One that comes to wait preempts who has the CPU if it is more than [`Tuning::granularity`] behind it.
//! - Where other CPUs have just begun to run a group of tasks, one of that group goes first here, unless it has had
//!   more than [`Tuning::patience`] beyond the furthest behind.

use super::cpus::CpuSet;
use abi::MAX_CPUS;
use alloc::vec::Vec;

/// The weight at which virtual time passes like time.
pub const DEFAULT_WEIGHT: u32 = 100;
/// Greatest weight; the least is 1.
pub const MAX_WEIGHT: u32 = bundle::manifest::MAX_WEIGHT;

/// Binary digits behind the point of a [`pace`].
const PACE_SHIFT: u32 = 20;

/// Virtual time for each tick on a CPU, at this weight: fixed point.
const fn pace(weight: u32) -> u64 {
    let weight = if weight == 0 { 1 } else { weight };
    ((DEFAULT_WEIGHT as u64) << PACE_SHIFT) / weight as u64
}

/// Virtual time that `ticks` on a CPU are.
const fn scaled(ticks: u64, pace: u64) -> u64 {
    ((ticks as u128 * pace as u128) >> PACE_SHIFT) as u64
}

/// Bounds, in ticks of virtual time but for the last.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// How far behind the CPU's clock a task may come.
    pub credit: u64,
    /// How far ahead of the CPU's clock a task may come.
    pub debt: u64,
    /// By how much more than the newcomer the running task must have had for it to be preempted.
    pub granularity: u64,
    /// How long, in ticks on a CPU of its own, one may have had more than the furthest behind and go before it for its
    /// group's sake.
    pub patience: u64,
}

impl Tuning {
    /// For a clock of so many ticks a millisecond. The debt is what patience and a slice of 10 ms, with a millisecond of
    /// grace, cost at the least weight.
    #[must_use]
    pub const fn new(millisecond: u64) -> Self {
        Self {
            credit: 5 * millisecond,
            debt: 1900 * millisecond,
            granularity: millisecond,
            patience: 8 * millisecond,
        }
    }
}

/// What a task brings along when it comes to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Its virtual time, by the clock of the CPU it was on last.
    pub vtime: u64,
    /// Its weight, 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// CPUs it may run on.
    pub affinity: CpuSet,
    /// Whom it belongs to: tasks of a group had best run at one time.
    pub group: u64,
}

/// Groups that other CPUs have just begun to run, of each CPU one.
#[derive(Clone, Copy, Default, Debug)]
pub struct Companions {
    groups: [u64; MAX_CPUS],
    count: usize,
}

impl Companions {
    /// One more, of another CPU.
    pub fn add(&mut self, group: u64) {
        if let Some(slot) = self.groups.get_mut(self.count) {
            *slot = group;
            self.count += 1;
        }
    }

    fn contains(&self, group: u64) -> bool {
        self.groups.iter().take(self.count).any(|&g| g == group)
    }
}

/// One that waits.
struct Entry<T> {
    claim: Claim,
    task: T,
}

/// The one that has the CPU.
struct Current {
    claim: Claim,
    /// Up to when the claim's `vtime` counts.
    since: u64,
}

impl Current {
    fn vtime_at(&self, now: u64) -> u64 {
        let ticks = now.saturating_sub(self.since);
        let claim = &self.claim;
        claim
            .vtime
            .saturating_add(scaled(ticks, pace(claim.weight)))
    }
}

/// Who waits for a CPU, and who has it.
pub struct FairQueue<T> {
    /// Furthest behind last. Short, and mostly changed at its end.
    entries: Vec<Entry<T>>,
    current: Option<Current>,
    clock: u64,
    /// Weights of all of them together.
    load: u64,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> FairQueue<T> {
    /// Nobody.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
            current: None,
            clock: 0,
            load: 0,
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Weights of those that wait and of the one that has the CPU, together.
    #[must_use]
    pub fn load(&self) -> u64 {
        self.load
    }

    /// The clock as it was set last.
    #[must_use]
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Sets the clock: the least virtual time of all, at `now`.
    fn tick(&mut self, now: u64) {
        let current = self.current.as_ref().map(|c| c.vtime_at(now));
        let head = self.entries.last().map(|e| e.claim.vtime);
        let least = match (current, head) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => return,
        };
        self.clock = self.clock.max(least);
    }

    /// The virtual time here of a task that has `vtime` by a clock that shows `clock`.
    fn translate(&self, vtime: u64, clock: u64, tuning: &Tuning) -> u64 {
        let ahead = vtime.saturating_sub(clock).min(tuning.debt);
        let behind = clock.saturating_sub(vtime).min(tuning.credit);
        self.clock.saturating_add(ahead).saturating_sub(behind)
    }

    /// A task comes to wait, `clock` being what its last CPU's clock showed; `None` if that was this one.
    /// True if it is to preempt who has the CPU.
    pub fn push(
        &mut self,
        task: T,
        claim: Claim,
        clock: Option<u64>,
        now: u64,
        tuning: &Tuning,
    ) -> bool {
        self.tick(now);
        let vtime = self.translate(claim.vtime, clock.unwrap_or(self.clock), tuning);
        self.insert(Entry {
            claim: Claim { vtime, ..claim },
            task,
        });
        self.load = self.load.saturating_add(u64::from(claim.weight));
        let preempts = |c: &Current| c.vtime_at(now).saturating_sub(vtime) > tuning.granularity;
        self.current.as_ref().is_some_and(preempts)
    }

    /// Behind those of the same virtual time.
    fn insert(&mut self, entry: Entry<T>) {
        let at = self
            .entries
            .partition_point(|e| e.claim.vtime > entry.claim.vtime);
        self.entries.insert(at, entry);
    }

    /// What the running task's virtual time has to be so that it waits behind who is next.
    #[must_use]
    pub fn behind_next(&self, vtime: u64) -> u64 {
        self.entries
            .last()
            .map_or(vtime, |e| vtime.max(e.claim.vtime))
    }

    /// Who of those that wait is to be next, if it is not `current`.
    fn next(
        &self,
        current: Option<&Current>,
        companions: &Companions,
        tuning: &Tuning,
    ) -> Option<usize> {
        let head = self.entries.last()?.claim.vtime;
        let current = current.map(|c| &c.claim);
        let least = current.map_or(head, |c| c.vtime.min(head));
        let follows = |c: &Claim| {
            c.vtime.saturating_sub(least) <= scaled(tuning.patience, pace(c.weight))
                && companions.contains(c.group)
        };
        let follower = self.entries.iter().rposition(|e| follows(&e.claim));
        let stays = current.is_some_and(|c| match follower.and_then(|at| self.entries.get(at)) {
            Some(e) => follows(c) && c.vtime <= e.claim.vtime,
            None => follows(c) || c.vtime <= head,
        });
        (!stays).then(|| follower.unwrap_or(self.entries.len() - 1))
    }

    /// True if the task that has the CPU would be given it again. Charge it first.
    #[must_use]
    pub fn stays(&self, companions: &Companions, tuning: &Tuning) -> bool {
        self.next(self.current.as_ref(), companions, tuning)
            .is_none()
    }

    /// The group of the task that has the CPU.
    #[must_use]
    pub fn group(&self) -> Option<u64> {
        self.current.as_ref().map(|c| c.claim.group)
    }

    /// Weights of those of `group` that wait or have the CPU, together.
    #[must_use]
    pub fn load_of(&self, group: u64) -> u64 {
        let waiting = self.entries.iter().map(|e| &e.claim);
        let all = waiting.chain(self.current.iter().map(|c| &c.claim));
        let own = all.filter(|claim| claim.group == group);
        own.map(|claim| u64::from(claim.weight)).sum()
    }

    /// Charges the task that has the CPU for its time up to `now`; its virtual time.
    pub fn charge(&mut self, now: u64) -> u64 {
        let Some(current) = &mut self.current else {
            return self.clock;
        };
        let vtime = current.vtime_at(now);
        current.claim.vtime = vtime;
        current.since = now;
        self.tick(now);
        vtime
    }

    /// The task that has the CPU leaves it. Charge it first.
    pub fn leave(&mut self) {
        if let Some(current) = self.current.take() {
            self.load = self.load.saturating_sub(u64::from(current.claim.weight));
        }
    }

    /// Gives the CPU to who is next. Whoever had it has left. `bounds` is asked only where there is a choice.
    pub fn pop(&mut self, bounds: impl FnOnce() -> (Companions, Tuning), now: u64) -> Option<T> {
        self.leave();
        let Entry { claim, task } = if self.entries.len() > 1 {
            let (companions, tuning) = bounds();
            let at = self.next(None, &companions, &tuning)?;
            self.entries.remove(at)
        } else {
            self.entries.pop()?
        };
        self.give(claim, now);
        Some(task)
    }

    fn give(&mut self, claim: Claim, now: u64) {
        self.current = Some(Current { claim, since: now });
        self.tick(now);
    }

    /// CPUs that one or more of those that wait may run on.
    #[must_use]
    pub fn affinities(&self) -> CpuSet {
        let union = |set: CpuSet, e: &Entry<T>| set.or(e.claim.affinity);
        self.entries.iter().fold(CpuSet::NONE, union)
    }

    /// Gives one that waits here, the furthest behind that may run on `cpu`, away.
    pub fn steal(&mut self, cpu: usize) -> Option<(T, Claim)> {
        let at = self
            .entries
            .iter()
            .rposition(|e| e.claim.affinity.contains(cpu))?;
        let entry = self.entries.remove(at);
        self.load = self.load.saturating_sub(u64::from(entry.claim.weight));
        Some((entry.task, entry.claim))
    }

    /// A task that was stolen where the clock showed `clock` gets this CPU, which nobody has.
    pub fn adopt(&mut self, claim: Claim, clock: u64, now: u64, tuning: &Tuning) {
        let vtime = self.translate(claim.vtime, clock, tuning);
        self.leave();
        self.load = self.load.saturating_add(u64::from(claim.weight));
        self.give(Claim { vtime, ..claim }, now);
    }
}
