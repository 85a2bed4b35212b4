//! The processor this code runs on, as the corevisor's [`Cpu`].

use super::gich::Gich;
use super::{gic, world};
use crate::context::{El1Regs, FpRegs, GpRegs, Timer, VgicRegs};
use crate::hal::{Cpu, TrapKind, WorldRegs};
use crate::{pstate, traps};
use abi::Ipa;

/// Reads a system register.
macro_rules! mrs {
    ($reg:expr) => {{
        let value: u64;
        // SAFETY: reading this register at EL2 has no side effect.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $reg), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// Writes a system register that changes nothing about EL2's own memory or control flow.
macro_rules! msr {
    ($reg:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the register governs worlds below EL2 or the trapping of their instructions, never
        // how EL2 itself executes.
        unsafe {
            core::arch::asm!(concat!("msr ", $reg, ", {}"), in(reg) value, options(nostack, preserves_flags));
        }
    }};
}
pub(super) use {mrs, msr};

/// The token for this CPU at EL2. One exists per CPU; it never leaves it.
#[derive(Debug)]
pub struct El2Cpu {
    has_pan: bool,
    has_ras: bool,
    interface: Interface,
    lr_count: usize,
}

/// The GIC's virtual CPU interface.
#[derive(Debug)]
enum Interface {
    /// GICv3: system registers.
    Registers {
        /// Active-priority registers per group that are implemented, 1 to 4.
        apr_count: usize,
    },
    /// GICv2: memory.
    Memory(Gich),
}

impl El2Cpu {
    /// Takes over this CPU: vectors, trap controls and everything that does not change between
    /// worlds. `gich`: where GICH is, on a machine with a GICv2.
    ///
    /// # Safety
    ///
    /// Called once on each CPU, at EL2 with E2H = 0, interrupts masked, on the stack that the CPU will
    /// go on using. GICH is mapped there as device memory.
    pub unsafe fn new(gich: Option<u64>) -> Self {
        msr!("vbar_el2", (&raw const world::el2_vectors) as u64);
        let dfr0 = mrs!("id_aa64dfr0_el1");
        let pmu = (dfr0 >> 8) & 0xf;
        // HPMN: all counters belong to EL1, where all accesses trap. 0 would be unpredictable.
        let counters = if pmu == 0 || pmu == 0xf {
            0
        } else {
            (mrs!("pmcr_el0") >> 11) & 0x1f
        };
        msr!("mdcr_el2", traps::MDCR | counters);
        msr!("hstr_el2", 0);
        msr!("vpidr_el2", mrs!("midr_el1"));
        msr!("cptr_el2", traps::CPTR_FP_TRAP);
        if (mrs!("id_aa64mmfr1_el1") >> 40) & 0xf != 0 {
            // HCRX_EL2 (FEAT_HCX): everything it would enable stays off.
            msr!("s3_4_c1_c2_2", 0);
        }
        let fine_grained = (mrs!("id_aa64mmfr0_el1") >> 56) & 0xf;
        if fine_grained != 0 {
            // FEAT_FGT: HFGRTR, HFGWTR, HFGITR, HDFGRTR, HDFGWTR trap nothing more.
            msr!("s3_4_c1_c1_4", 0);
            msr!("s3_4_c1_c1_5", 0);
            msr!("s3_4_c1_c1_6", 0);
            msr!("s3_4_c3_c1_4", 0);
            msr!("s3_4_c3_c1_5", 0);
        }
        if fine_grained > 1 {
            // FEAT_FGT2: HDFGRTR2, HDFGWTR2, HFGRTR2, HFGWTR2, HFGITR2: registers they guard stay trapped.
            msr!("s3_4_c3_c1_0", 0);
            msr!("s3_4_c3_c1_1", 0);
            msr!("s3_4_c3_c1_2", 0);
            msr!("s3_4_c3_c1_3", 0);
            msr!("s3_4_c3_c1_7", 0);
        }
        let pfr0 = mrs!("id_aa64pfr0_el1");
        if (pfr0 >> 40) & 0xf != 0 {
            // MPAM2_EL2: TRAPMPAM0EL1, TRAPMPAM1EL1.
            msr!("s3_4_c10_c5_0", 1 << 48 | 1 << 49);
        }
        // The OS lock is on at reset, and worlds' writes to it trap: software step needs it off.
        msr!("oslar_el1", 0);
        // Nothing that ran at EL1 before may leave translations for the first world.
        // SAFETY: dropping translations is always allowed.
        unsafe {
            core::arch::asm!(
                "dsb nsh",
                "tlbi alle1",
                "dsb nsh",
                "isb",
                options(nostack, preserves_flags)
            );
        }
        let (interface, lr_count) = if let Some(base) = gich {
            // ID_AA64PFR0_EL1.GIC: where the processor has system registers too, they stay off.
            if (pfr0 >> 24) & 0xf != 0 {
                gic::disable();
            }
            // SAFETY: the caller's promise.
            let gich = unsafe { Gich::new(base) };
            let count = gich.count();
            (Interface::Memory(gich), count)
        } else {
            let (lr_count, apr_count) = gic::init();
            (Interface::Registers { apr_count }, lr_count)
        };
        Self {
            has_pan: (mrs!("id_aa64mmfr1_el1") >> 20) & 0xf != 0,
            has_ras: (pfr0 >> 28) & 0xf != 0,
            interface,
            lr_count,
        }
    }

    /// List registers of the virtual CPU interface.
    #[must_use]
    pub const fn list_registers(&self) -> usize {
        self.lr_count
    }
}

impl Cpu for El2Cpu {
    fn load_world(&mut self, world: &WorldRegs, el1: &El1Regs) {
        // EL2 begins no EL1&0 table walk, but one that began below it may go on after the exception, and would
        // mix the registers of two worlds, or cache the result under the other's VMID: a DSB alone waits for
        // it (Arm ARM D8.1.5, R_LFHQG). SAFETY: a barrier has no other effect.
        unsafe { core::arch::asm!("dsb nsh", options(nostack, preserves_flags)) };
        msr!("vttbr_el2", world.stage2.vttbr);
        msr!("vtcr_el2", world.stage2.vtcr);
        msr!("hcr_el2", world.hcr);
        msr!("cptr_el2", world.cptr);
        msr!("cnthctl_el2", world.cnthctl);
        msr!("cntvoff_el2", world.cntvoff);
        msr!("vmpidr_el2", world.vmpidr);
        if self.has_ras {
            // VDISR_EL2: what a world reads as DISR_EL1 is not another's.
            msr!("s3_4_c12_c1_1", 0);
        }
        el1.load();
        // The exception return that follows synchronises.
    }

    fn forget_vcpu(&mut self) {
        // The first ISB makes the VMID count that was just loaded. HCR_EL2.FB makes nothing broadcast at EL2.
        // SAFETY: dropping translations and instructions is always allowed.
        unsafe {
            core::arch::asm!(
                "isb",
                "tlbi vmalle1",
                "ic iallu",
                "dsb nsh",
                "isb",
                options(nostack, preserves_flags)
            );
        }
    }

    fn set_cptr(&mut self, cptr: u64) {
        msr!("cptr_el2", cptr);
    }

    fn enter(&mut self, gp: &mut GpRegs) -> TrapKind {
        // SAFETY: `El2Cpu::new` set the vectors; the corevisor set stage 2 and the trap controls by
        // `load_world` (HCR_EL2.VM is part of every world it builds); `gp` is borrowed exclusively.
        match unsafe { world::enter_world(gp) } {
            world::SYNC => TrapKind::Sync,
            world::INTERRUPT => TrapKind::Interrupt,
            _ => TrapKind::SError,
        }
    }

    fn esr(&self) -> u64 {
        mrs!("esr_el2")
    }

    fn far(&self) -> u64 {
        mrs!("far_el2")
    }

    fn fault_page(&self) -> Ipa {
        // HPFAR_EL2.FIPA: bits 43:4 hold IPA bits 51:12.
        Ipa((mrs!("hpfar_el2") & 0xfff_ffff_fff0) << 8)
    }

    fn save_el1(&mut self, regs: &mut El1Regs) {
        regs.save();
    }

    fn inject(&mut self, gp: &mut GpRegs, esr: u64, far: Option<u64>) {
        msr!("elr_el1", gp.pc);
        msr!("spsr_el1", gp.pstate);
        msr!("esr_el1", esr);
        if let Some(far) = far {
            msr!("far_el1", far);
        }
        gp.pc = mrs!("vbar_el1").wrapping_add(pstate::sync_vector_offset(gp.pstate));
        gp.pstate = pstate::on_exception(gp.pstate, mrs!("sctlr_el1"), self.has_pan);
    }

    fn write_mdscr(&mut self, value: u64) {
        msr!("mdscr_el1", value);
    }

    fn read_mdscr(&self) -> u64 {
        mrs!("mdscr_el1")
    }

    fn save_fp(&mut self, regs: &mut FpRegs) {
        super::fp::save(regs);
    }

    fn load_fp(&mut self, regs: &FpRegs) {
        super::fp::load(regs);
    }

    fn write_lr(&mut self, n: usize, value: u64) {
        if n < self.lr_count {
            match &mut self.interface {
                Interface::Registers { .. } => gic::write_lr(n, value),
                Interface::Memory(gich) => gich.write_lr(n, value),
            }
        }
    }

    fn read_lr(&mut self, n: usize) -> u64 {
        if n >= self.lr_count {
            return 0;
        }
        match &mut self.interface {
            Interface::Registers { .. } => gic::read_lr(n),
            Interface::Memory(gich) => gich.read_lr(n),
        }
    }

    fn load_vgic(&mut self, regs: &VgicRegs, hcr: u64) {
        match &mut self.interface {
            Interface::Registers { apr_count } => gic::load(regs, hcr, *apr_count),
            Interface::Memory(gich) => gich.load(regs, hcr),
        }
    }

    fn save_vgic(&mut self, regs: &mut VgicRegs) {
        match &mut self.interface {
            Interface::Registers { apr_count } => gic::save(regs, *apr_count),
            Interface::Memory(gich) => gich.save(regs),
        }
    }

    fn load_vtimer(&mut self, timer: Timer) {
        msr!("cntv_cval_el0", timer.cval);
        msr!("cntv_ctl_el0", timer.ctl);
    }

    fn save_vtimer(&mut self) -> Timer {
        let timer = Timer {
            ctl: mrs!("cntv_ctl_el0"),
            cval: mrs!("cntv_cval_el0"),
        };
        msr!("cntv_ctl_el0", 0);
        msr!("cntv_cval_el0", 0);
        timer
    }

    fn now(&self) -> u64 {
        now()
    }
}

/// CNTPCT_EL0: ticks of the machine's time.
#[must_use]
pub fn now() -> u64 {
    mrs!("cntpct_el0")
}

/// Feature registers of this CPU in encoding order: index `(CRm - 1) * 8 + op2` for op0 = 3, op1 = 0,
/// CRn = 0, CRm = 1 … 7 (Arm ARM D24.1, "ID group 3"). Reserved encodings read as zero.
#[must_use]
pub fn feature_registers() -> [u64; 56] {
    let mut regs = [0; 56];
    macro_rules! read {
        ($($crm:literal: $($op2:literal)*;)*) => {
            $($(
                regs[($crm - 1) * 8 + $op2] =
                    mrs!(concat!("s3_0_c0_c", stringify!($crm), "_", stringify!($op2)));
            )*)*
        };
    }
    read! {
        1: 0 1 2 3 4 5 6 7;
        2: 0 1 2 3 4 5 6 7;
        3: 0 1 2 3 4 5 6 7;
        4: 0 1 2 3 4 5 6 7;
        5: 0 1 2 3 4 5 6 7;
        6: 0 1 2 3 4 5 6 7;
        7: 0 1 2 3 4 5 6 7;
    }
    regs
}
