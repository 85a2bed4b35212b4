//! What the machine must have for the VMs to start.

use abi::{MAX_VCPUS_GICV2, MAX_VCPUS_OF_ALL, MAX_VMS};
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

/// Checks that the VMs are not more than exist at once, nor their vCPUs; and that the interrupt controller, which is of
/// version `gic`, has enough for each.
pub(crate) fn check_numbers(gic: &str, vms: &[Manifest]) -> Result<()> {
    let starting = || vms.iter().filter(|vm| vm.autostart);
    let (count, vcpus) = (
        starting().count(),
        starting().map(|vm| u64::from(vm.vcpus)).sum::<u64>(),
    );
    if count > MAX_VMS {
        return Err(Error::config(format_args!(
            "{count} VMs start at once, Cloister runs up to {MAX_VMS} (autostart = false leaves one for later)"
        )));
    }
    if vcpus > MAX_VCPUS_OF_ALL as u64 {
        return Err(Error::config(format_args!(
            "{vcpus} vCPUs in all, Cloister runs up to {MAX_VCPUS_OF_ALL} (autostart = false leaves a VM for later)"
        )));
    }
    let too_wide = |vm: &&Manifest| gic == "2" && vm.vcpus as usize > MAX_VCPUS_GICV2;
    if let Some(vm) = vms.iter().find(too_wide) {
        return Err(Error::config(format_args!(
            "VM '{}': {} vCPUs, with a GICv2 a VM has up to {MAX_VCPUS_GICV2} (--gic 3 gives the machine another)",
            vm.name, vm.vcpus
        )));
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

    #[test]
    fn no_more_vms_and_vcpus_than_exist_at_once() {
        let vms = |count: usize, vcpus| {
            let one = Manifest {
                vcpus,
                ..vm(0, None)
            };
            vec![one; count]
        };
        let refused = |gic, vms: &[Manifest]| check_numbers(gic, vms).unwrap_err().to_string();
        for allowed in [vms(64, 4), vms(16, 16)] {
            assert!(check_numbers("3", &allowed).is_ok());
        }
        assert!(check_numbers("2", &vms(1, 8)).is_ok());
        assert!(
            refused("3", &vms(65, 1)).starts_with("65 VMs start at once, Cloister runs up to 64")
        );
        assert!(refused("3", &vms(33, 8)).starts_with("264 vCPUs in all, Cloister runs up to 256"));
        assert!(
            refused("2", &vms(1, 9)).starts_with("VM 'vm': 9 vCPUs, with a GICv2 a VM has up to 8")
        );
        let mut later = vms(65, 1);
        later[0].autostart = false;
        assert!(check_numbers("3", &later).is_ok());
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
