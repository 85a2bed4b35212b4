//! A VM's part of the machine's CPUs, as its manifest has it.

use crate::sched::CpuSet;
use alloc::format;
use alloc::string::String;
use bundle::Manifest;
use bundle::manifest::cpu_set_text;

/// A VM's part of the machine's CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Weight of each of its vCPUs.
    pub weight: u32,
    /// CPUs they may run on.
    pub affinity: CpuSet,
}

impl Share {
    /// What the manifest asks for. CPUs that the machine does not have are left out; if none remains the
    /// VM could never run, and is refused.
    pub fn new(manifest: &Manifest, online: CpuSet) -> Result<Self, String> {
        let affinity = manifest.affinity.map_or(CpuSet::ALL, CpuSet::from_bits);
        if affinity.and(online).is_empty() {
            return Err(format!(
                "affinity names CPUs {} only, the machine has {online}",
                cpu_set_text(manifest.affinity)
            ));
        }
        Ok(Self {
            weight: manifest.weight,
            affinity,
        })
    }
}
