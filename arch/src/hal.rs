//! The traits between the corevisor's plain code and hardware: memory and TLB, one CPU, firmware.
//!
//! At EL2 they are implemented by [`crate::el2`]; in host tests by a simulated memory and a TLB that
//! remembers stale entries.

use crate::context::{El1Regs, FpRegs, GpRegs, Timer, VgicRegs};
use abi::{Ipa, Pfn};
use core::sync::atomic::AtomicU64;

/// Words in a 4 KiB frame.
pub const FRAME_WORDS: usize = 512;

/// A 4 KiB frame seen as words. Others may write it at any time, hence atomics.
pub type FrameWords = [AtomicU64; FRAME_WORDS];

/// Access to RAM frames by number. Every frame of RAM is mapped at EL2.
pub trait Memory: Sync {
    /// The frame's words.
    ///
    /// The caller passes frames of RAM only (the frame table knows them); an implementation stops
    /// the machine on any other, as that is a broken invariant.
    fn words(&self, frame: Pfn) -> &FrameWords;

    /// Writes back and drops what caches hold of the frame, so that nobody's earlier stores can come
    /// to memory later.
    fn clean(&self, frame: Pfn);

    /// Fills the frame with zeros and makes them visible to every observer, caches off included.
    fn zero(&self, frame: Pfn);

    /// Drops what instruction caches of all CPUs hold, where stores do not reach them by themselves: what was
    /// fetched from a frame is not for its next owner to run.
    fn forget_instructions(&self);
}

/// Which stage-2 translation regime: the pair of registers that select it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stage2Regs {
    /// VTTBR_EL2: root table and VMID.
    pub vttbr: u64,
    /// VTCR_EL2: sizes and attributes of the walk.
    pub vtcr: u64,
}

/// Ordering of descriptor stores and invalidation of what TLBs keep of them.
pub trait Tlb: Sync {
    /// Makes descriptor stores before this call visible to the table walkers of every CPU
    /// (DSB ISHST, ISB).
    fn publish(&self);

    /// Drops, on every CPU, what is cached of the stage-2 translation of `ipa` at any level in regime
    /// `regs`, combined stage-1 entries included, and waits until that is done
    /// (DSB; TLBI IPAS2E1IS; DSB; TLBI VMALLE1IS; DSB; ISB).
    fn invalidate_ipa(&self, regs: Stage2Regs, ipa: Ipa);

    /// Drops, on every CPU, everything cached for the VMID of `regs`, and waits until that is done
    /// (DSB; TLBI VMALLS12E1IS; DSB; ISB).
    fn invalidate_vmid(&self, regs: Stage2Regs);
}

/// How control came back from a world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrapKind {
    /// Synchronous exception: ESR_EL2 tells.
    Sync,
    /// Physical interrupt (IRQ or FIQ) pending.
    Interrupt,
    /// SError.
    SError,
}

/// Registers that make EL2 treat what runs below it as one world or another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WorldRegs {
    /// Stage 2.
    pub stage2: Stage2Regs,
    /// HCR_EL2.
    pub hcr: u64,
    /// CPTR_EL2.
    pub cptr: u64,
    /// CNTHCTL_EL2.
    pub cnthctl: u64,
    /// CNTVOFF_EL2.
    pub cntvoff: u64,
    /// VMPIDR_EL2.
    pub vmpidr: u64,
}

/// One physical CPU at EL2: its world switch and the registers a world owns.
pub trait Cpu {
    /// Selects the world that the next [`Self::enter`] runs and loads its EL1 registers, once the table walks
    /// of the world before are over.
    fn load_world(&mut self, world: &WorldRegs, el1: &El1Regs);

    /// Drops what this CPU's TLB and instruction caches hold for the VMID of the loaded world: another vCPU
    /// of its VM left it there.
    fn forget_vcpu(&mut self);

    /// Changes CPTR_EL2 alone.
    fn set_cptr(&mut self, cptr: u64);

    /// Runs the selected world from `gp` until it traps.
    fn enter(&mut self, gp: &mut GpRegs) -> TrapKind;

    /// ESR_EL2 of the last synchronous trap.
    fn esr(&self) -> u64;

    /// FAR_EL2 of the last abort.
    fn far(&self) -> u64;

    /// The faulting IPA's page from HPFAR_EL2, valid after translation faults.
    fn fault_page(&self) -> abi::Ipa;

    /// Saves the EL1 registers of the world that ran.
    fn save_el1(&mut self, regs: &mut El1Regs);

    /// Makes the loaded world take a synchronous exception at EL1 with syndrome `esr`, and FAR_EL1 if
    /// given.
    fn inject(&mut self, gp: &mut GpRegs, esr: u64, far: Option<u64>);

    /// Writes MDSCR_EL1 of the loaded world.
    fn write_mdscr(&mut self, value: u64);

    /// Reads MDSCR_EL1 of the loaded world.
    fn read_mdscr(&self) -> u64;

    /// Saves FP/SIMD registers. CPTR_EL2 must not trap them.
    fn save_fp(&mut self, regs: &mut FpRegs);

    /// Loads FP/SIMD registers. CPTR_EL2 must not trap them.
    fn load_fp(&mut self, regs: &FpRegs);

    /// Loads list register `n`; one the machine lacks is ignored.
    fn write_lr(&mut self, n: usize, value: u64);

    /// Reads list register `n`; 0 for one the machine lacks.
    fn read_lr(&mut self, n: usize) -> u64;

    /// Turns the GIC virtual CPU interface on with `hcr` (ICH_HCR_EL2.En added) and its state.
    fn load_vgic(&mut self, regs: &VgicRegs, hcr: u64);

    /// Saves the state and turns the virtual CPU interface off.
    fn save_vgic(&mut self, regs: &mut VgicRegs);

    /// Loads the virtual timer.
    fn load_vtimer(&mut self, timer: Timer);

    /// Saves the virtual timer, ISTATUS included, and turns it off.
    fn save_vtimer(&mut self) -> Timer;

    /// CNTPCT_EL0.
    fn now(&self) -> u64;
}

/// The firmware below: PSCI calls, and starting a CPU in the boot code's own entry.
pub trait Firmware: Sync {
    /// Makes one of the PSCI calls CPU_OFF, SYSTEM_OFF and SYSTEM_RESET, which come back only where the
    /// firmware refuses or there is none that can.
    fn psci(&self, function: u32) -> i64;

    /// Starts CPU number `index`; it comes up through the boot code and enters the corevisor there.
    /// Returns a PSCI code.
    fn start_cpu(&self, index: usize) -> i64;
}
