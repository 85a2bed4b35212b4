//! vCPUs: register state in core memory.
//!
//! It lies under a lock ([`crate::vcpu_slot`]) that the CPU running it holds for as long as it runs:
//! two CPUs cannot run one vCPU, and nobody can look at a running one.

use abi::{Ipa, Pfn};
use arch::context::{El1Regs, FpRegs, GpRegs, Timer, VgicRegs};
use arch::esr::Access;
use arch::hal::WorldRegs;
use arch::pstate;

/// SCTLR_EL1 at reset: RES1 bits, MMU and caches off (Arm ARM D24.2.175).
pub const SCTLR_EL1_RESET: u64 = 0x30d0_0800;

/// The access that ended the last run and waits for the hostvisor's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Pending {
    /// None.
    None,
    /// An MMIO read into a register.
    MmioRead(Access),
    /// An MMIO write.
    MmioWrite,
    /// A data access without syndrome; true for a write.
    DataFault(bool),
    /// An instruction fetch.
    InstructionFault,
}

/// Register state of a vCPU.
#[derive(Debug)]
pub struct Vcpu {
    /// Handle of the VM it belongs to; 0 while the slot is free.
    pub vm: u64,
    /// Its index in the VM.
    pub index: usize,
    /// It has been powered on and not off again.
    pub on: bool,
    /// General-purpose registers, PC, PSTATE.
    pub gp: GpRegs,
    /// EL1 system registers.
    pub el1: El1Regs,
    /// FP/SIMD registers, unless a CPU holds them ([`crate::vcpu_slot::VcpuSlot::is_fp_home`]).
    pub fp: FpRegs,
    /// Virtual CPU interface.
    pub vgic: VgicRegs,
    /// Virtual timer.
    pub vtimer: Timer,
    /// Physical timer, emulated.
    pub ptimer: Timer,
    /// What EL2 loads to run it.
    pub world: WorldRegs,
    /// The access that waits for an answer.
    pub pending: Pending,
    /// FAR of that access.
    pub pending_far: u64,
    /// Length of its instruction, in bytes.
    pub pending_length: u64,
    /// The VM's table epoch at which this vCPU last found a faulting page unmapped.
    pub epoch: u64,
    /// The run page.
    pub run_page: Pfn,
}

impl Vcpu {
    /// All zero bytes, so that the slots cost nothing in the image.
    pub const EMPTY: Self = Self {
        vm: 0,
        index: 0,
        on: false,
        gp: GpRegs::new(),
        el1: El1Regs::new(),
        fp: FpRegs::new(),
        vgic: VgicRegs::new(),
        vtimer: Timer { ctl: 0, cval: 0 },
        ptimer: Timer { ctl: 0, cval: 0 },
        world: WorldRegs {
            stage2: arch::hal::Stage2Regs { vttbr: 0, vtcr: 0 },
            hcr: 0,
            cptr: 0,
            cnthctl: 0,
            cntvoff: 0,
            vmpidr: 0,
        },
        pending: Pending::None,
        pending_far: 0,
        pending_length: 0,
        epoch: 0,
        run_page: Pfn(0),
    };

    /// Register state as a CPU has it when PSCI starts it (DEN0022 §6.4): EL1h, MMU off, x0 the
    /// context id. What the vCPU was before is gone.
    ///
    /// FP/SIMD registers that some CPU still holds stay there: they are this vCPU's own, and PSCI leaves
    /// them UNKNOWN.
    pub fn power_on(&mut self, boot: BootEntry) {
        self.gp = GpRegs::new();
        self.gp.pc = boot.entry.0;
        self.gp.pstate = pstate::RESET;
        self.gp.write(0, boot.context);
        self.el1 = El1Regs::new();
        self.el1.sctlr = SCTLR_EL1_RESET;
        self.on = true;
        self.vgic = VgicRegs::new();
        self.vtimer = Timer::default();
        self.ptimer = Timer::default();
        self.pending = Pending::None;
    }
}

/// Where a vCPU starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootEntry {
    /// PC.
    pub entry: Ipa,
    /// x0.
    pub context: u64,
}

impl BootEntry {
    /// For a vCPU that has none yet.
    pub const NOWHERE: Self = Self {
        entry: Ipa(0),
        context: 0,
    };
}
