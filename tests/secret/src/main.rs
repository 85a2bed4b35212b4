//! A Linux program that spreads a secret over its machine: memory, page cache, the registers of every CPU.
//!
//! `secret-keeper COMPLEMENT TIMES`: the secret is the 64-bit word whose complement is COMPLEMENT (16 hexadecimal
//! digits). So it is in nobody's command line, and nobody who looks for it need have it either. It writes the
//! secret TIMES times into anonymous memory and into the file `/secret`; then a process on each CPU fills its
//! registers with it TIMES times, says so, and goes on for ever.
//!
//! Static, without libc, built for bare metal; on any other target than that it is an empty program.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod program;
#[cfg(target_os = "none")]
mod system;

#[cfg(not(target_os = "none"))]
fn main() {}
