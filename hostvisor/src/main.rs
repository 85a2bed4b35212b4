//! The hostvisor's program: everything is in the library; the entry point is `hw`'s `_start`.
//!
//! On any other target than bare metal this is an empty program, so that the workspace builds there.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

// Links the library, and with it the entry stub, although nothing here calls it.
use hostvisor as _;

#[cfg(not(target_os = "none"))]
fn main() {}
