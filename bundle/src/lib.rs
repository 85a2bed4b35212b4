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
pub mod device;
pub mod image;
pub mod layout;
pub mod manifest;
pub mod newc;

pub use archive::{Bundle, Error, MAX_VMS, NewVm, VmEntry, VmError, VmFault, write};
pub use device::{Disk, DiskSource, GuestConsole, Ipv4Cidr, Mac, Net};
pub use manifest::{Format, Manifest, OnReboot};

use alloc::vec::Vec;

/// The switches that have an uplink, in the order in which the manifests mention them. The Nth one is
/// joined to the machine's Nth network card, cards being counted by ascending hardware address: that
/// order is the same whatever bus they are on and whoever found them.
#[must_use]
pub fn uplinks<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Vec<&'a str> {
    let mut switches = Vec::new();
    for net in manifests.into_iter().flat_map(|manifest| &manifest.nets) {
        if net.uplink && !switches.contains(&net.switch.as_str()) {
            switches.push(net.switch.as_str());
        }
    }
    switches
}
