//! What the machine must have for the VMs to start.

use bundle::{Manifest, manifest};

use crate::error::{Error, Result};
use crate::size::Size;

use super::args::Bus;

/// Memory that firmware, corevisor and hostvisor need beside the VMs and the bundle: 1/64 of the
/// machine's, and this much.
const RESERVE: u64 = 64 << 20;

/// Checks that the VMs that start at boot fit into the machine together.
pub(crate) fn check_memory(machine: Size, vms: &[Manifest], bundle: u64) -> Result<()> {
    let vms: Vec<_> = vms.iter().filter(|vm| vm.autostart).collect();
    if machine.0 < 512 << 20 {
        return Err(Error::config(format_args!(
            "--memory {machine}: the machine needs at least 512M"
        )));
    }
    let wanted = vms
        .iter()
        .fold(0_u64, |sum, vm| sum.saturating_add(vm.memory));
    let usable = machine
        .0
        .saturating_sub(RESERVE + machine.0 / 64)
        .saturating_sub(bundle);
    if wanted <= usable {
        return Ok(());
    }
    let list: Vec<String> = vms
        .iter()
        .map(|vm| format!("{} {}", vm.name, Size(vm.memory)))
        .collect();
    Err(Error::config(format_args!(
        "the VMs want {} of memory ({}), a machine of {machine} has {} for them: raise --memory",
        Size(wanted),
        list.join(", "),
        Size(usable >> 20 << 20)
    )))
}

/// Checks that disks and network cards fit the board: QEMU's `virt` has 32 slots for virtio-mmio, and on PCI 31 beside
/// the host bridge.
pub(crate) fn check_slots(bus: Bus, devices: usize) -> Result<()> {
    let slots = match bus {
        Bus::Mmio => 32,
        Bus::Pci => 31,
    };
    if devices <= slots {
        return Ok(());
    }
    Err(Error::config(format_args!(
        "{devices} disks and network cards, the machine has room for {slots}: VMs may share a disk \
         (read-only, or its partitions) and a switch"
    )))
}

/// Checks that every VM may run on at least one of the machine's CPUs.
pub(crate) fn check_affinity(cpus: u32, vms: &[Manifest]) -> Result<()> {
    let there = 1_u64.checked_shl(cpus).map_or(u64::MAX, |bit| bit - 1);
    for vm in vms {
        if vm.affinity.is_some_and(|set| set & there == 0) {
            return Err(Error::config(format_args!(
                "VM '{}': affinity names CPUs {} only, the machine has 0 to {}",
                vm.name,
                manifest::cpu_set_text(vm.affinity),
                cpus - 1
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(memory: u64, affinity: Option<u64>) -> Manifest {
        Manifest {
            name: "vm".to_owned(),
            format: bundle::Format::Linux,
            vcpus: 1,
            memory,
            protected: true,
            autostart: true,
            on_reboot: bundle::OnReboot::Restart,
            append: String::new(),
            weight: 100,
            affinity,
            entropy: true,
            console: bundle::GuestConsole::Pl011,
            disks: Vec::new(),
            nets: Vec::new(),
            kernel: 1,
            initrd: 0,
        }
    }

    #[test]
    fn a_board_has_so_many_slots() {
        assert!(check_slots(Bus::Mmio, 32).is_ok() && check_slots(Bus::Pci, 31).is_ok());
        assert!(check_slots(Bus::Pci, 32).is_err());
        let error = check_slots(Bus::Mmio, 33).unwrap_err().to_string();
        assert!(
            error.starts_with("33 disks and network cards, the machine has room for 32"),
            "{error}"
        );
    }

    #[test]
    fn a_vm_needs_one_of_the_cpus_there_are() {
        assert!(check_affinity(2, &[vm(0, None), vm(0, Some(0b110))]).is_ok());
        assert_eq!(
            check_affinity(2, &[vm(0, Some(0b1100))])
                .unwrap_err()
                .to_string(),
            "VM 'vm': affinity names CPUs 2,3 only, the machine has 0 to 1"
        );
    }

    fn check(machine: u64, vms: &[u64]) -> Result<()> {
        let vms: Vec<_> = vms.iter().map(|m| vm(*m, None)).collect();
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
