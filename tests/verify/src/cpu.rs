//! A simulated CPU: registers as the core switches them, and somebody who plays the world that runs.

use crate::machine::Fault;
use abi::Ipa;
use arch::context::{El1Regs, FpRegs, GpRegs, Timer, VgicRegs};
use arch::hal::{Cpu, TrapKind, WorldRegs};
use arch::pstate;
use std::collections::BTreeMap;

/// List registers of the machine.
pub const LIST_REGISTERS: usize = 4;
/// INTID of the virtual timer.
pub const VTIMER: u64 = 27;

/// Registers of the processor.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Number of the CPU.
    pub index: usize,
    /// EL2's control of what runs.
    pub world: WorldRegs,
    /// EL1.
    pub el1: El1Regs,
    /// FP/SIMD.
    pub fp: FpRegs,
    /// List registers.
    pub lrs: [u64; LIST_REGISTERS],
    /// The rest of the virtual CPU interface.
    pub vgic: VgicRegs,
    /// ICH_HCR_EL2.
    pub ich_hcr: u64,
    /// Virtual timer.
    pub vtimer: Timer,
    /// By VMID, VMPIDR_EL2 of the vCPU whose translations the TLB holds.
    pub tlb: BTreeMap<u64, u64>,
    /// How often some were dropped because another vCPU was to run.
    pub forgotten: u64,
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2, as the page's address.
    pub fault_page: u64,
    /// CNTPCT_EL0.
    pub now: u64,
    /// Exceptions injected so far.
    pub injected: u64,
    /// A general register of the last guest, for `Fault::LeakGp`.
    pub last_x5: u64,
    /// The bug put in.
    pub fault: Fault,
}

impl Hardware {
    /// At reset.
    #[must_use]
    pub fn new(index: usize, fault: Fault) -> Self {
        Self {
            index,
            world: WorldRegs::default(),
            el1: El1Regs::new(),
            fp: FpRegs::new(),
            lrs: [0; LIST_REGISTERS],
            vgic: VgicRegs::new(),
            ich_hcr: 0,
            vtimer: Timer::default(),
            tlb: BTreeMap::new(),
            forgotten: 0,
            esr: 0,
            far: 0,
            fault_page: 0,
            now: 1000,
            injected: 0,
            last_x5: 0,
            fault,
        }
    }
}

impl Hardware {
    /// VTTBR_EL2.VMID.
    const fn vmid(&self) -> u64 {
        self.world.stage2.vttbr >> 48
    }
}

/// Whoever plays the guest on a CPU.
pub trait Guest {
    /// Runs the loaded world from `gp` until it traps, leaving the syndrome in `hardware`.
    fn run(&mut self, hardware: &mut Hardware, gp: &mut GpRegs) -> TrapKind;
}

/// A CPU.
pub struct SimCpu<G> {
    /// Its registers.
    pub hardware: Hardware,
    /// Its guest.
    pub guest: G,
}

impl<G: Guest> Cpu for SimCpu<G> {
    fn load_world(&mut self, world: &WorldRegs, el1: &El1Regs) {
        self.hardware.world = *world;
        let back_to_host = world.stage2.vttbr >> 48 == 0;
        if !(self.hardware.fault == Fault::KeepEl1 && back_to_host) {
            self.hardware.el1.clone_from(el1);
        }
        if self.hardware.fault == Fault::OpenFp {
            self.hardware.world.cptr = arch::traps::CPTR_FP_OPEN;
        }
    }

    fn forget_vcpu(&mut self) {
        self.hardware.forgotten += 1;
        if self.hardware.fault != Fault::KeepVcpu {
            self.hardware.tlb.remove(&self.hardware.vmid());
        }
    }

    fn set_cptr(&mut self, cptr: u64) {
        self.hardware.world.cptr = cptr;
    }

    fn enter(&mut self, gp: &mut GpRegs) -> TrapKind {
        let (vmid, vcpu) = (self.hardware.vmid(), self.hardware.world.vmpidr);
        let filled_by = *self.hardware.tlb.entry(vmid).or_insert(vcpu);
        assert_eq!(filled_by, vcpu, "vCPUs share translations");
        let trap = self.guest.run(&mut self.hardware, gp);
        self.hardware.last_x5 = gp.x[5];
        trap
    }

    fn esr(&self) -> u64 {
        self.hardware.esr
    }

    fn far(&self) -> u64 {
        self.hardware.far
    }

    fn fault_page(&self) -> Ipa {
        Ipa(self.hardware.fault_page)
    }

    fn save_el1(&mut self, regs: &mut El1Regs) {
        regs.clone_from(&self.hardware.el1);
    }

    fn inject(&mut self, gp: &mut GpRegs, esr: u64, far: Option<u64>) {
        let el1 = &mut self.hardware.el1;
        (el1.elr, el1.spsr, el1.esr) = (gp.pc, gp.pstate, esr);
        if let Some(far) = far {
            el1.far = far;
        }
        gp.pc = el1.vbar.wrapping_add(pstate::sync_vector_offset(gp.pstate));
        gp.pstate = pstate::on_exception(gp.pstate, el1.sctlr, true);
        self.hardware.injected += 1;
    }

    fn write_mdscr(&mut self, value: u64) {
        self.hardware.el1.mdscr = value;
    }

    fn read_mdscr(&self) -> u64 {
        self.hardware.el1.mdscr
    }

    fn save_fp(&mut self, regs: &mut FpRegs) {
        assert_eq!(
            self.hardware.world.cptr & arch::traps::CPTR_TFP,
            0,
            "EL2 traps on itself"
        );
        regs.clone_from(&self.hardware.fp);
    }

    fn load_fp(&mut self, regs: &FpRegs) {
        assert_eq!(
            self.hardware.world.cptr & arch::traps::CPTR_TFP,
            0,
            "EL2 traps on itself"
        );
        self.hardware.fp.clone_from(regs);
    }

    fn write_lr(&mut self, n: usize, value: u64) {
        if let Some(lr) = self.hardware.lrs.get_mut(n) {
            *lr = value;
        }
    }

    fn read_lr(&mut self, n: usize) -> u64 {
        self.hardware.lrs.get(n).copied().unwrap_or(0)
    }

    fn load_vgic(&mut self, regs: &VgicRegs, hcr: u64) {
        self.hardware.vgic.clone_from(regs);
        self.hardware.ich_hcr = hcr | 1;
    }

    fn save_vgic(&mut self, regs: &mut VgicRegs) {
        regs.clone_from(&self.hardware.vgic);
        self.hardware.ich_hcr = 0;
    }

    fn load_vtimer(&mut self, timer: Timer) {
        self.hardware.vtimer = timer;
    }

    fn save_vtimer(&mut self) -> Timer {
        let now = self.hardware.now.wrapping_sub(self.hardware.world.cntvoff);
        let mut timer = core::mem::take(&mut self.hardware.vtimer);
        if self.hardware.fault == Fault::LeakGp {
            timer = Timer {
                ctl: Timer::ENABLE,
                cval: self.hardware.last_x5,
            };
        }
        Timer {
            ctl: timer.status(now),
            ..timer
        }
    }

    fn now(&self) -> u64 {
        self.hardware.now
    }
}
