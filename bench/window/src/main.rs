//! `window ID PROGRAM ARGUMENT...`: runs a program in a Linux guest between the two marks of `bench/plugin/levels.c`,
//! and says how it went.
//!
//! A static program without a library, in assembly: what it adds to the window is one fork, exec and wait, and it
//! builds with the bare-metal toolchain, so that no cross compiler for Linux is needed. Built for the host it is an
//! empty program.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("window.s"));

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here is in Rust that could.
    loop {}
}

#[cfg(not(target_os = "none"))]
fn main() {}
