//! Exhaustive exploration: two CPUs of a hostile hostvisor, two hostile guests, a machine of sixteen
//! frames, and the shipped corevisor under all of them.
//!
//! A call stops before every step at which CPUs can meet: locks, words of the frame table, and what it
//! asks of TLBs and memory. Between two steps of one CPU the other may make any of its own. After each
//! step page-table walkers see, and TLBs keep, all they can; guests write secrets wherever only they
//! should reach; and [`check`] looks at everything.

pub mod action;
mod canon;
pub mod check;
mod coroutine;
pub mod crew;
pub mod interleave;
pub mod search;
mod visited;
mod worker;

pub use search::{Limits, Report, run};
