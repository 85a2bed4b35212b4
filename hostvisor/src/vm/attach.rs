//! What of the machine a VM's devices are attached to, found and taken before the VM is made.

use crate::storage::{self, Backend, Claim, Volume};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bundle::{Disk, Manifest};

/// Fewest segments that a disk of the machine must take in a request: a guest's one may become two.
const MIN_SEGMENTS: u16 = 2;

/// What a VM's devices are attached to.
#[derive(Default)]
pub struct Attached {
    /// What is behind its disks, in the manifest's order.
    pub disks: Vec<Volume>,
}

impl Attached {
    /// What the manifest asks for, and the claims that keep it the VM's.
    pub fn new(manifest: &Manifest) -> Result<(Self, Vec<Claim>), String> {
        let mut attached = Self::default();
        let mut claims = Vec::new();
        for disk in &manifest.disks {
            let (volume, claim) =
                open(disk, &manifest.name).map_err(|why| format!("disk {}: {why}", disk.source))?;
            attached.disks.push(volume);
            claims.push(claim);
        }
        Ok((attached, claims))
    }
}

fn open(disk: &Disk, vm: &str) -> Result<(Volume, Claim), String> {
    let volume = storage::open(&disk.source).map_err(|why| why.to_string())?;
    let geometry = volume.geometry();
    if geometry.read_only && !disk.read_only {
        return Err("it is read-only, the VM wants to write to it".to_string());
    }
    if geometry.sectors == 0 {
        return Err("it has no sectors".to_string());
    }
    if geometry.max_segments < MIN_SEGMENTS {
        return Err("it takes only one piece of memory in a request".to_string());
    }
    let claim = storage::claim(&volume, disk.shared, vm).map_err(|why| why.to_string())?;
    Ok((volume, claim))
}
