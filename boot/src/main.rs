//! The payload: boot code, corevisor and embedded hostvisor as one flat image that firmware starts
//! like a Linux kernel.
//!
//! Boot trusts the firmware and its device tree. It runs once on each CPU, brings it to a known
//! state under EL2 stage-1 translation, and hands over to the corevisor; only the panic handler and
//! the CPU start stub live on.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod exception;
#[cfg(target_os = "none")]
mod handover;
#[cfg(target_os = "none")]
mod hardware;
#[cfg(target_os = "none")]
mod host;
#[cfg(target_os = "none")]
mod image;
#[cfg(target_os = "none")]
mod paging;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod secondary;
#[cfg(target_os = "none")]
mod start;

/// On the development host there is nothing to boot.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("cloister-payload runs on bare metal: build it with tools/bare-cargo");
}
