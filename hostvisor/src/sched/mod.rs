//! Scheduling: the state of each vCPU, and per-CPU run queues of vCPUs in order of virtual time.
//!
//! # Who runs, and where
//!
//! - Each CPU runs the vCPU that waits for it and is furthest behind in virtual time, which passes the slower
//!   the greater a vCPU's weight is ([`fair`]). While others wait a vCPU runs for a slice; then it waits with
//!   the others.
//! - vCPUs of one VM had best run at one time: one that spins for a lock whose holder waits for a CPU wastes its
//!   own. So slices end at the same moments on all CPUs. There the first to choose goes by virtual time; the others
//!   follow it within [`fair::Tuning::patience`], if a sibling of its choice waits for them. Siblings that wait for
//!   the same CPU are parted.
//! - A vCPU that wakes goes to the CPU it ran on last if that sleeps, else to any that sleeps, else to the one
//!   with the least load (weights of who waits or runs), best the one it ran on last. There it preempts who
//!   runs, if that one has had much more than its share; not within an exit of that one's own, but at an interrupt
//!   that follows soon (`vm::grace`).
//! - A CPU with nothing to do takes a waiting vCPU from another. Loads are levelled as vCPUs come to wait:
//!   where they cannot be level, as with three vCPUs on two CPUs, vCPUs take turns on the busier one
//!   ([`ROTATION`]).
//! - Never on a CPU that is not in the vCPU's affinity.
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
//! A CPU goes to sleep by announcing itself idle and *then* looking for work once more; whoever
//! queues something looks at the idle set *after* queueing. Both orders are sequentially consistent, so
//! one of the two sees the other. An SGI that comes too early stays pending and ends the WFI.
//!
//! A vCPU is in a queue exactly while it is Runnable; only the CPU that takes it out of the queue makes it
//! Running, and only that CPU takes it out of Running.

mod cpus;
pub mod fair;
mod queues;
mod state;

pub use cpus::CpuSet;
pub use fair::Claim;
pub use queues::{Arrival, Placed, ROTATION, Scheduler};
pub use state::{Kick, Phase, RunState};

#[cfg(test)]
mod tests;
