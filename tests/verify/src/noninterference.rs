//! Noninterference by two runs: two machines that differ only in what a protected VM keeps to itself
//! (its memory and registers), given the same calls of a hostile hostvisor on two CPUs and of a hostile
//! second VM. Whatever these can see must be the same in both, after every call.
//!
//! What the protected VM passes out is made equal: MMIO addresses and values, arguments of hypercalls,
//! interrupts it sends, deadlines of timers that run, and pages while it shares them. All else differs:
//! every other register, the upper bits of a narrow store, virtual addresses, timers that are off.

mod generate;
mod guest;
mod twin;

use crate::machine::Fault;
use crate::rng::Rng;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use twin::Twins;

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sequences.
    pub sequences: u64,
    /// Threads.
    pub threads: usize,
    /// Seed of the first sequence; each has the next.
    pub seed: u64,
    /// The bug put in.
    pub fault: Fault,
    /// Print progress.
    pub verbose: bool,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Sequences run.
    pub sequences: u64,
    /// Calls and accesses in them, each made on both machines.
    pub calls: u64,
    /// Calls that succeeded.
    pub succeeded: u64,
    /// Entries into the protected VM.
    pub entries: u64,
    /// Wall-clock time.
    pub time: Duration,
    /// The seed and call at which somebody saw a difference.
    pub difference: Option<String>,
}

/// Two machines to run sequences on.
pub struct Runs(Twins);

impl Runs {
    /// Two machines with this bug put in.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self(Twins::new(fault))
    }

    /// Runs one sequence. The error says what somebody saw.
    ///
    /// # Errors
    ///
    /// Somebody saw a difference.
    pub fn sequence(&mut self, choices: Rng<'_>) -> Result<(), String> {
        generate::sequence(&mut self.0, choices, &mut Report::default())
    }
}

/// Runs sequences until all are done or somebody sees a difference.
#[must_use]
pub fn run(limits: Limits) -> Report {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let total = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..limits.threads {
            scope.spawn(|| {
                let mut twins = Twins::new(limits.fault);
                let mut own = Report::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= limits.sequences {
                        break;
                    }
                    if limits.verbose && number > 0 && number.is_multiple_of(100_000) {
                        let seconds = started.elapsed().as_secs_f64();
                        println!(
                            "noninterference: {number} sequences, {:.0}/s",
                            number as f64 / seconds
                        );
                    }
                    let seed = limits.seed.wrapping_add(number);
                    own.sequences += 1;
                    if let Err(difference) =
                        generate::sequence(&mut twins, Rng::Seed(seed), &mut own)
                    {
                        own.difference = Some(format!("seed {seed}: {difference}"));
                        next.store(limits.sequences, Ordering::Relaxed);
                        break;
                    }
                }
                let mut total = total.lock().unwrap();
                total.sequences += own.sequences;
                total.calls += own.calls;
                total.succeeded += own.succeeded;
                total.entries += own.entries;
                total.difference = total.difference.take().or(own.difference);
            });
        }
    });
    let mut report = total.into_inner().unwrap();
    report.time = started.elapsed();
    report
}
