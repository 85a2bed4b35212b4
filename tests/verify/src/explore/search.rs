//! The search: states at rest breadth first; from each, every call alone, and every two calls that can
//! meet, step by step in every order.

use super::action::{DATA, POOL, roots};
use super::crew::{Crew, Snapshot};
use super::visited::Visited;
use super::worker::Worker;
use crate::machine::Fault;
use crate::world::Size;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Distinct states to stop at.
    pub states: u64,
    /// Time to stop at.
    pub time: Duration,
    /// Threads.
    pub threads: usize,
    /// Calls after a root.
    pub depth: usize,
    /// From the roots, also let one CPU make two calls while the other is in one.
    pub triples: bool,
    /// The bug put in.
    pub fault: Fault,
    /// Print progress.
    pub verbose: bool,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Distinct states, in the middle of calls included.
    pub states: u64,
    /// Distinct states with no call under way.
    pub at_rest: u64,
    /// Those from which calls were tried together.
    pub expanded: u64,
    /// Steps made.
    pub steps: u64,
    /// Pairs, and triples, of calls explored step by step.
    pub pairs: u64,
    /// Pairs that touch nothing in common, of which every order is the same.
    pub independent: u64,
    /// Most calls after a root in any state at rest from which every call was tried alone.
    pub depth: usize,
    /// The same where calls were tried together.
    pub met_depth: usize,
    /// Most calls after boot, those that lead to a root counted.
    pub calls: usize,
    /// Most steps in one such run.
    pub longest: usize,
    /// All that is reachable within the depth was explored.
    pub complete: bool,
    /// Wall-clock time.
    pub time: Duration,
    /// How a violation comes about, if there is one.
    pub violation: Option<String>,
}

/// How a state came about.
pub(super) struct Story {
    pub(super) before: Option<Arc<Story>>,
    pub(super) event: String,
}

/// A state at rest to go on from.
#[derive(Clone)]
pub(super) struct Task {
    pub(super) state: Arc<Snapshot>,
    pub(super) depth: usize,
    pub(super) calls: usize,
    pub(super) story: Arc<Story>,
}

/// States at rest that wait, in the order found: for every call alone, and for calls together. Both go
/// on side by side, so that the first goes deep while the second goes wide.
pub(super) struct Pool {
    pub(super) alone: VecDeque<Task>,
    pub(super) together: VecDeque<Task>,
    pub(super) busy: usize,
    pub(super) turn: usize,
}

/// States that are tried alone for one that is tried together: a quarter of the time, about.
const ALONE_SHARE: usize = 64;
/// States at rest that may wait: what memory there is.
pub(super) const WAITING_MOST: usize = 200_000;

/// The search, shared by all threads.
pub(super) struct Search {
    pub(super) limits: Limits,
    pub(super) started: Instant,
    pub(super) visited: Visited,
    pub(super) pool: Mutex<Pool>,
    pub(super) wake: Condvar,
    pub(super) stop: AtomicBool,
    pub(super) dropped: AtomicBool,
    pub(super) states: AtomicU64,
    pub(super) at_rest: AtomicU64,
    pub(super) expanded: AtomicU64,
    pub(super) steps: AtomicU64,
    pub(super) pairs: AtomicU64,
    pub(super) independent: AtomicU64,
    pub(super) depth: AtomicUsize,
    pub(super) met_depth: AtomicUsize,
    pub(super) calls: AtomicUsize,
    pub(super) longest: AtomicUsize,
    pub(super) violation: Mutex<Option<String>>,
}

/// The machine that is explored.
pub const SIZE: Size = Size {
    frames: POOL + DATA,
    pool: POOL,
    vms: 2,
    vcpus: 2,
};

/// Explores until a limit or a violation.
#[must_use]
pub fn run(limits: Limits) -> Report {
    let search = Search {
        limits,
        started: Instant::now(),
        visited: Visited::new(),
        pool: Mutex::new(Pool {
            alone: VecDeque::new(),
            together: VecDeque::new(),
            busy: 0,
            turn: 0,
        }),
        dropped: AtomicBool::new(false),
        wake: Condvar::new(),
        stop: AtomicBool::new(false),
        states: AtomicU64::new(0),
        at_rest: AtomicU64::new(0),
        expanded: AtomicU64::new(0),
        steps: AtomicU64::new(0),
        pairs: AtomicU64::new(0),
        independent: AtomicU64::new(0),
        depth: AtomicUsize::new(0),
        met_depth: AtomicUsize::new(0),
        calls: AtomicUsize::new(0),
        longest: AtomicUsize::new(0),
        violation: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        let search = &search;
        for number in 0..limits.threads {
            scope.spawn(move || search.work(number));
        }
        if limits.verbose {
            scope.spawn(move || search.tell());
        }
    });
    let complete = !search.stop.load(Ordering::Relaxed) && !search.dropped.load(Ordering::Relaxed);
    let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
    Report {
        states: load(&search.states),
        at_rest: load(&search.at_rest),
        expanded: load(&search.expanded),
        steps: load(&search.steps),
        pairs: load(&search.pairs),
        independent: load(&search.independent),
        depth: search.depth.into_inner(),
        met_depth: search.met_depth.into_inner(),
        calls: search.calls.into_inner(),
        longest: search.longest.into_inner(),
        complete,
        time: search.started.elapsed(),
        violation: search.violation.into_inner().unwrap(),
    }
}

impl Search {
    fn tell(&self) {
        let mut last = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            {
                let pool = self.pool.lock().unwrap();
                let done = pool.together.is_empty() && pool.busy == 0;
                if done && self.expanded.load(Ordering::Relaxed) > 0 {
                    return;
                }
                if last.elapsed() > Duration::from_secs(10) {
                    last = Instant::now();
                    let states = self.states.load(Ordering::Relaxed);
                    println!(
                        "explore: {:>4} s, {states} states, {} at rest, depth {}; {} tried together, {} waiting",
                        self.started.elapsed().as_secs(),
                        self.at_rest.load(Ordering::Relaxed),
                        self.depth.load(Ordering::Relaxed),
                        self.expanded.load(Ordering::Relaxed),
                        pool.together.len()
                    );
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn work(&self, number: usize) {
        struct StopAll<'s>(&'s AtomicBool);
        impl Drop for StopAll<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
        }
        let _stop_all = StopAll(&self.stop);
        let mut worker = Worker {
            search: self,
            crew: Crew::new(SIZE, self.limits.fault),
        };
        if number == 0 {
            for root in roots() {
                if !self.stop.load(Ordering::Relaxed) {
                    worker.prepare(&root);
                }
            }
        }
        while let Some((task, together)) = self.next(number) {
            if let Some(solos) = worker.expand(&task)
                && together
            {
                worker.meet(&task, &solos);
            }
            self.pool.lock().unwrap().busy -= 1;
            self.wake.notify_all();
        }
        // Coroutines in the middle of their lives are not dropped but forgotten.
        std::mem::forget(worker.crew);
    }

    fn next(&self, number: usize) -> Option<(Task, bool)> {
        let mut pool = self.pool.lock().unwrap();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                self.wake.notify_all();
                return None;
            }
            pool.turn += 1;
            let deep = !pool.turn.is_multiple_of(ALONE_SHARE);
            let task = match deep.then(|| pool.alone.pop_front()).flatten() {
                Some(task) => Some((task, false)),
                None => pool.together.pop_front().map(|task| (task, true)),
            };
            if task.is_some() {
                pool.busy += 1;
                return task;
            }
            let started = self.at_rest.load(Ordering::Relaxed) > 0 || number == 0;
            if pool.busy == 0 && started {
                self.wake.notify_all();
                return None;
            }
            pool = self
                .wake
                .wait_timeout(pool, Duration::from_millis(20))
                .unwrap()
                .0;
        }
    }

    /// A violation: the search is over.
    pub(super) fn found(&self, violation: String) {
        self.stop.store(true, Ordering::Relaxed);
        self.violation.lock().unwrap().get_or_insert(violation);
    }

    /// Counts a state; true if it is new.
    pub(super) fn count(&self, state: u64) -> bool {
        let new = self.visited.insert(state);
        if new {
            let states = self.states.fetch_add(1, Ordering::Relaxed) + 1;
            if states >= self.limits.states
                || states.is_multiple_of(1024) && self.started.elapsed() > self.limits.time
            {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        new
    }
}
