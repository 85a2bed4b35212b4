//! The hostile hostvisor: an EL1 program that takes the hostvisor's place in the payload and attacks the
//! corevisor and its VMs, row by row of `docs/attacks.md`.
//!
//! It says `ATTACK name: refused (how)` or `ATTACK name: SUCCEEDED what`; an attack whose precondition
//! fails says `VOID`, which counts as a failure. Nothing here trusts the corevisor or is trusted by it.
//! With `churn=N` it makes and destroys VMs instead, see `churn`. It knows QEMU's `virt` board only.
//!
//! On any other target than bare metal this is an empty program, so that the workspace builds there.
#![cfg_attr(target_os = "none", no_std, no_main)]
// Verdicts carry their text with them: there is no heap.
#![allow(clippy::result_large_err)]

#[cfg(target_os = "none")]
mod access;
#[cfg(target_os = "none")]
mod attacks;
#[cfg(target_os = "none")]
mod board;
#[cfg(target_os = "none")]
mod call;
#[cfg(target_os = "none")]
mod churn;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod exception;
#[cfg(target_os = "none")]
mod frames;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod guest;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod suite;
#[cfg(target_os = "none")]
mod verdict;
#[cfg(target_os = "none")]
mod vm;

#[cfg(not(target_os = "none"))]
fn main() {}
