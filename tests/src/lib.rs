//! The harness of the integration tests: starts the payload in QEMU, talks to its console, and ends it.
//!
//! A test describes a [`Machine`], starts it, and gets a [`Run`], whose console it reads with
//! `expect` and writes with `send`. Every run has a time-out; a run that fails shows its command
//! line and its last lines; QEMU never outlives its `Run`. Nothing here knows the hypervisor's
//! insides: all it sees is what an operator sees.

#![forbid(unsafe_code)]

pub mod artifacts;
pub mod bundle;
pub mod console;
pub mod gdb;
pub mod http;
pub mod image;
pub mod load;
pub mod machine;
pub mod process;
pub mod qmp;
pub mod redis;
pub mod run;
pub mod verdicts;
pub mod vm;

pub use machine::Machine;
pub use run::Run;
pub use vm::VmSpec;
