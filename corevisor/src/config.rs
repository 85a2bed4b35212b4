//! Facts about the machine that boot found out and that never change.

use crate::idregs;
use abi::run::LR_SGI_SOURCE;
use abi::{GICC_IPA, GICC_SIZE, Ipa, MAX_CPUS, PhysAddr};

/// What the corevisor knows of the machine besides its memory.
#[derive(Clone, Debug)]
pub struct Config {
    /// MPIDR_EL1 affinity of each CPU (bits 39:32 and 23:0); entry `i` is CPU number `i`.
    pub mpidr: [u64; MAX_CPUS],
    /// CPUs in `mpidr`.
    pub cpus: usize,
    /// List registers of the GIC virtual CPU interface.
    pub list_registers: usize,
    /// GICV, on a machine with a GICv2: whole pages that are not RAM and restricted to nobody's. Every VM
    /// has it at [`abi::GICC_IPA`], and finds there what this CPU's list registers hold: its own.
    pub gicv: Option<PhysAddr>,
    /// INTID of the virtual timer's PPI.
    pub vtimer_intid: u64,
    /// ID group 3 as guests read it, see [`idregs`].
    pub id_registers: [u64; idregs::COUNT],
    /// Frames of RAM in all.
    pub ram_frames: u64,
    /// Frames in state Core.
    pub core_frames: u64,
    /// CNTPCT when the boot CPU came to the payload's entry.
    pub boot_ticks: u64,
}

impl Config {
    /// The number of the CPU with this affinity.
    #[must_use]
    pub fn cpu_by_mpidr(&self, mpidr: u64) -> Option<usize> {
        self.mpidr.iter().take(self.cpus).position(|&m| m == mpidr)
    }

    /// The bits of a list register in which an SGI may name its sender.
    #[must_use]
    pub const fn sgi_source(&self) -> u64 {
        if self.gicv.is_some() {
            LR_SGI_SOURCE
        } else {
            0
        }
    }

    /// True if VMs have their CPU interface in this page.
    #[must_use]
    pub const fn is_gicc(&self, page: Ipa) -> bool {
        self.gicv.is_some() && page.0.wrapping_sub(GICC_IPA.0) < GICC_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(gicv: Option<PhysAddr>) -> Config {
        let mut mpidr = [0; MAX_CPUS];
        mpidr[1] = 0x1_0000_0100;
        Config {
            mpidr,
            cpus: 2,
            list_registers: 4,
            gicv,
            vtimer_intid: 27,
            id_registers: [0; idregs::COUNT],
            ram_frames: 0,
            core_frames: 0,
            boot_ticks: 0,
        }
    }

    /// Only a GICv2 shows a CPU interface as memory, and names who sent an SGI.
    #[test]
    fn a_gicv2_has_two_pages_and_senders() {
        let v2 = config(Some(PhysAddr(0x0804_0000)));
        let around = [-1, 0, 1, 2].map(|n| GICC_IPA.0.wrapping_add_signed(n * 4096));
        let found = around.map(|page| v2.is_gicc(Ipa(page)));
        assert_eq!(found, [false, true, true, false]);
        assert_eq!(v2.sgi_source(), 7 << 10);
        let v3 = config(None);
        assert!(around.iter().all(|page| !v3.is_gicc(Ipa(*page))));
        assert_eq!(v3.sgi_source(), 0);
    }

    /// The whole affinity is compared, and unused entries name nobody.
    #[test]
    fn an_affinity_names_one_cpu() {
        let config = config(None);
        for (affinity, cpu) in [(0, Some(0)), (0x1_0000_0100, Some(1)), (0x100, None)] {
            assert_eq!(config.cpu_by_mpidr(affinity), cpu);
        }
        let one = Config { cpus: 1, ..config };
        assert_eq!(one.cpu_by_mpidr(0x1_0000_0100), None);
    }
}
