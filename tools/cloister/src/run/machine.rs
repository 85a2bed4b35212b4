//! What the machine must have for the VMs to start.

use crate::error::{Error, Result};
use crate::size::Size;

/// Memory that firmware, corevisor and hostvisor need beside the VMs and the bundle: 1/64 of the
/// machine's, and this much.
const RESERVE: u64 = 64 << 20;

/// Checks that the VMs that start at boot fit into the machine together.
pub(crate) fn check_memory(machine: Size, vms: &[(String, u64)], bundle: u64) -> Result<()> {
    if machine.0 < 512 << 20 {
        return Err(Error::config(format_args!(
            "--memory {machine}: the machine needs at least 512M"
        )));
    }
    let wanted = vms
        .iter()
        .fold(0_u64, |sum, (_, memory)| sum.saturating_add(*memory));
    let usable = machine
        .0
        .saturating_sub(RESERVE + machine.0 / 64)
        .saturating_sub(bundle);
    if wanted <= usable {
        return Ok(());
    }
    let list: Vec<String> = vms
        .iter()
        .map(|(name, memory)| format!("{name} {}", Size(*memory)))
        .collect();
    Err(Error::config(format_args!(
        "the VMs want {} of memory ({}), a machine of {machine} has {} for them: raise --memory",
        Size(wanted),
        list.join(", "),
        Size(usable >> 20 << 20)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(machine: u64, vms: &[u64]) -> Result<()> {
        let vms: Vec<_> = vms.iter().map(|m| ("vm".to_owned(), *m)).collect();
        check_memory(Size(machine), &vms, 30 << 20)
    }

    #[test]
    fn all_vms_together_count() {
        assert!(check(1 << 30, &[256 << 20, 256 << 20]).is_ok());
        let error = check(1 << 30, &[512 << 20, 512 << 20])
            .unwrap_err()
            .to_string();
        assert!(error.contains("1G of memory (vm 512M, vm 512M)"), "{error}");
    }

    #[test]
    fn absurd_sizes_do_not_wrap() {
        assert!(check(1 << 30, &[u64::MAX, u64::MAX]).is_err());
        assert!(check(1 << 20, &[]).is_err());
    }
}
