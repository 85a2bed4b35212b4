//! vCPUs: register state in core memory, and the slots that hold it.
//!
//! A vCPU's state lies under a lock that the CPU running it holds for as long as it runs: two CPUs
//! cannot run one vCPU, and nobody can look at a running one. Power state is apart, because PSCI
//! calls of one vCPU change that of another.

use abi::hypercall::VcpuStat;
use abi::{Error, Ipa, Pfn};
use arch::context::{El1Regs, FpRegs, GpRegs, Timer, VgicRegs};
use arch::esr::Access;
use arch::hal::WorldRegs;
use arch::pstate;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::{Mutex, MutexGuard};

/// vCPU slots of the whole machine.
pub const SLOTS: usize = 256;

/// SCTLR_EL1 at reset: RES1 bits, MMU and caches off (Arm ARM D24.2.175).
pub const SCTLR_EL1_RESET: u64 = 0x30d0_0800;

/// The access that ended the last run and waits for the hostvisor's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    /// General-purpose registers, PC, PSTATE.
    pub gp: GpRegs,
    /// EL1 system registers.
    pub el1: El1Regs,
    /// FP/SIMD registers, unless `fp_home` says they are elsewhere.
    pub fp: FpRegs,
    /// The CPU whose FP/SIMD registers hold this vCPU's state.
    pub fp_home: Option<usize>,
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
    /// The VM's table epoch at which this vCPU last found a faulting page unmapped.
    pub epoch: u64,
    /// The run page.
    pub run_page: Pfn,
}

impl Vcpu {
    const EMPTY: Self = Self {
        vm: 0,
        index: 0,
        gp: GpRegs::new(),
        el1: El1Regs::new(),
        fp: FpRegs::new(),
        fp_home: None,
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
        epoch: u64::MAX,
        run_page: Pfn(0),
    };

    /// Register state as a CPU has it when PSCI starts it (DEN0022 §6.4): EL1h, MMU off, x0 the
    /// context id. What the vCPU was before is gone.
    pub fn power_on(&mut self, boot: BootEntry) {
        self.gp = GpRegs::new();
        self.gp.pc = boot.entry.0;
        self.gp.pstate = pstate::RESET;
        self.gp.write(0, boot.context);
        self.el1 = El1Regs::new();
        self.el1.sctlr = SCTLR_EL1_RESET;
        self.fp = FpRegs::new();
        self.fp_home = None;
        self.vgic = VgicRegs::new();
        self.vtimer = Timer::default();
        self.ptimer = Timer::default();
        self.pending = Pending::None;
    }
}

/// Where a vCPU starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BootEntry {
    /// PC.
    pub entry: Ipa,
    /// x0.
    pub context: u64,
}

/// PSCI power state (DEN0022 §5.7): stored as a word so that it changes by compare-and-swap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Power {
    /// Off.
    Off = 0,
    /// CPU_ON has claimed it and is writing its entry.
    Claimed = 1,
    /// Its entry is written; it comes up when the hostvisor runs it.
    OnPending = 2,
    /// On.
    On = 3,
}

/// One slot.
#[derive(Debug)]
pub struct VcpuSlot {
    taken: AtomicU64,
    power: AtomicU64,
    boot: Mutex<BootEntry>,
    stats: [AtomicU64; VcpuStat::COUNT],
    state: Mutex<Vcpu>,
}

impl VcpuSlot {
    /// A free slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            taken: AtomicU64::new(0),
            power: AtomicU64::new(Power::Off as u64),
            boot: Mutex::new(BootEntry {
                entry: Ipa(0),
                context: 0,
            }),
            stats: [const { AtomicU64::new(0) }; VcpuStat::COUNT],
            state: Mutex::new(Vcpu::EMPTY),
        }
    }

    /// Claims the slot; false if it is taken.
    pub fn claim(&self) -> bool {
        self.taken
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Clears the state, secrets included, and frees the slot. The caller holds the state's lock.
    pub fn release(&self, mut state: MutexGuard<'_, Vcpu>) {
        *state = Vcpu::EMPTY;
        drop(state);
        self.power.store(Power::Off as u64, Ordering::Release);
        for stat in &self.stats {
            stat.store(0, Ordering::Relaxed);
        }
        self.taken.store(0, Ordering::Release);
    }

    /// Counts an event. Only the CPU that runs the vCPU counts.
    pub fn count(&self, stat: VcpuStat) {
        if let Some(n) = self.stats.get(stat as usize) {
            n.store(n.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// A counter, by its number in [`VcpuStat`]; readable while the vCPU runs.
    pub fn stat(&self, number: usize) -> Option<u64> {
        Some(self.stats.get(number)?.load(Ordering::Relaxed))
    }

    /// The state, or `Busy` while another CPU runs it or works on it.
    pub fn try_lock(&self) -> Result<MutexGuard<'_, Vcpu>, Error> {
        self.state.try_lock().ok_or(Error::Busy)
    }

    /// The state, waiting for short work on it elsewhere. Never for a vCPU that may be running.
    pub fn lock(&self) -> MutexGuard<'_, Vcpu> {
        self.state.lock()
    }

    /// The power state.
    pub fn power(&self) -> Power {
        match self.power.load(Ordering::Acquire) {
            3 => Power::On,
            2 => Power::OnPending,
            1 => Power::Claimed,
            _ => Power::Off,
        }
    }

    /// Off → on pending at `boot`. On any other state nothing changes and that state is the error.
    pub fn request_on(&self, boot: BootEntry) -> Result<(), Power> {
        let (off, claimed) = (Power::Off as u64, Power::Claimed as u64);
        if self
            .power
            .compare_exchange(off, claimed, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            return Err(self.power());
        }
        *self.boot.lock() = boot;
        self.power.store(Power::OnPending as u64, Ordering::Release);
        Ok(())
    }

    /// On pending → on, answering the entry. The caller holds the state's lock.
    pub fn take_boot(&self) -> BootEntry {
        let boot = *self.boot.lock();
        self.power.store(Power::On as u64, Ordering::Release);
        boot
    }

    /// Turns it off (its own CPU_OFF).
    pub fn power_off(&self) {
        self.power.store(Power::Off as u64, Ordering::Release);
    }
}

impl Default for VcpuSlot {
    fn default() -> Self {
        Self::new()
    }
}
