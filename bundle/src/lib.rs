//! The bundle: the VMs of a machine, handed over by the firmware like an initrd.
//!
//! A newc cpio archive of a marker file `cloister`, then for each VM its manifest, kernel and, if it
//! has one, initrd. The `cloister` tool writes bundles, the hostvisor reads them; both use this crate,
//! so there is one reading of the format. It trusts nobody: every byte may be wrong, and then the
//! error says where. No unsafe code, no panic, no defaults for what is missing.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;

pub mod archive;
pub mod image;
pub mod layout;
pub mod manifest;
pub mod newc;

pub use archive::{Bundle, Error, MAX_VMS, NewVm, VmEntry, VmError, VmFault, write};
pub use manifest::{Format, Manifest, OnReboot};
