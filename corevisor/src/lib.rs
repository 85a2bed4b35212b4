//! The corevisor: the trusted core of Cloister, at EL2.
//!
//! 1. It owns three things: who may reach which frame of RAM, vCPU register state, and the switch
//!    between worlds. Whatever the hostvisor can do instead, the hostvisor does.
//! 2. It trusts the boot code and the firmware before hand-over, and nobody afterwards. The hostvisor
//!    and every guest are adversaries.
//! 3. Bad input gets an error code (hostvisor) or an architectural exception or PSCI/SMCCC error
//!    (guest). Nothing either can do panics. A broken internal invariant stops the machine.
//! 4. Memory an adversary can write is read once, into a copy, and the copy is checked.
//! 5. A transition completes or leaves everything as it was; a call's time at EL2 is bounded.
//! 6. No unsafe code: hardware is reached through `arch`.
//!
//! Layers, each calling downwards only: frames and pool → stage-2 tables → ownership → VMs and vCPUs
//! → hypercalls and traps.

#![cfg_attr(not(any(test, feature = "sim")), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod config;
pub mod core;
pub mod fpu;
pub mod frame;
pub mod frame_table;
pub mod guest;
pub mod host;
pub mod hypercall;
pub mod idregs;
pub mod invariant;
pub mod listreg;
pub mod lock;
pub mod ownership;
pub mod pkvm;
pub mod pool;
pub mod psci;
pub mod restricted;
pub mod run;
pub mod stage2;

#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod sysreg;
pub mod transition;
pub mod vcpu;
pub mod vcpu_slot;
pub mod vm;
