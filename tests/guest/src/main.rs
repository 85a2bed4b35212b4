//! A bare-metal guest that tests the machine it runs on: exceptions, GICv3, timers, PSCI, SMP, MMIO.
//!
//! The image is flat: it is entered at its first byte with x0 = device tree, the way QEMU's `virt`
//! enters a raw `-kernel` image and Cloister enters `format = "flat"`. The device tree's /chosen
//! bootargs select the tests (`test=NAME,NAME`), each prints one verdict line, and the guest powers
//! the machine off. It runs on bare QEMU as well, which is how the tests themselves are checked.
//!
//! It shares no code with the hypervisor on purpose. Built for the host it is an empty program.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod blk;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod exception;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod micro;
#[cfg(target_os = "none")]
mod net;
#[cfg(target_os = "none")]
mod platform;
#[cfg(target_os = "none")]
mod psci;
#[cfg(target_os = "none")]
mod runner;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod suite;
#[cfg(target_os = "none")]
mod tables;
#[cfg(target_os = "none")]
mod timer;
#[cfg(target_os = "none")]
mod verdict;
#[cfg(target_os = "none")]
mod virtio;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    include_str!("asm/entry.s"),
    include_str!("asm/vectors.s"),
    include_str!("asm/state.s")
);

#[cfg(not(target_os = "none"))]
fn main() {}
