//! What boot decides, apart from the hardware: reading the device tree and dividing up memory. Plain
//! code without unsafe that builds and tests on the development host. The payload itself, with the
//! entry stub and everything that touches hardware, is the `cloister-payload` program beside it.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod carve;
mod gic_v2;
pub mod info;
pub mod layout;
pub mod ranges;
pub mod tree;
pub mod tree_check;
pub mod withheld;
