//! Armv8-A: what the hardware wants said its way.
//!
//! Register and descriptor encodings, exception vectors and world-switch assembly, barriers, TLB and
//! cache maintenance, GIC and timer primitives. Pure encodings build and test on any host; what
//! executes privileged instructions lives in `el2` and exists on the target only.
//!
//! This crate holds mechanism, never policy: it decides nothing about who may do what. `unsafe` is
//! allowed here, each block with the invariant it relies on.

#![cfg_attr(not(test), no_std)]

pub mod context;
pub mod descriptor;
#[cfg(target_os = "none")]
pub mod el2;
pub mod esr;
pub mod gich;
pub mod hal;
pub mod platform;
pub mod pstate;
pub mod stage1;
pub mod traps;
