//! The corevisor under a magnifying glass, on the development host: the shipped code itself, on a
//! simulated machine, against hostile callers.
//!
//! - [`explore`]: every interleaving of two CPUs' calls and their sub-steps, on a machine of a few frames.
//! - [`noninterference`]: two machines that differ in a protected VM's secret alone; nobody else may see
//!   a difference.
//! - [`refusals`]: every wrong argument of every hypercall, against a table of what the documents say.
//! - [`fuzz`]: bytes into everything that reads bytes of an adversary.
//!
//! What must hold is stated here, over what the simulated hardware can reach, and never by asking the
//! code under test. `docs/verification.md` says what each run covers and what it does not.

#![forbid(unsafe_code)]

pub mod cpu;
pub mod explore;
pub mod fuzz;
pub mod hash;
pub mod machine;
pub mod noninterference;
pub mod refusals;
pub mod rng;
pub mod walker;
pub mod world;
