//! The GICv2 virtual interface control registers, GICH (GIC architecture IHI 0048B, 5.3).
//!
//! Each access leaves the processor, so nothing is written that is there already, and nothing read that
//! cannot have changed: [`Gich`] remembers what the registers hold. Nobody else reaches them, but for the
//! guest that runs, through GICV.

use crate::context::VgicRegs;
use crate::gich;
use abi::run::MAX_LIST_REGISTERS;
use core::ptr;

const GICH_HCR: u64 = 0x00;
const GICH_VTR: u64 = 0x04;
const GICH_VMCR: u64 = 0x08;
const GICH_APR: u64 = 0xf0;
const GICH_LR: u64 = 0x100;

/// GICH_HCR.En.
const EN: u32 = 1;

/// The registers of this CPU. All CPUs have theirs at one address.
#[derive(Debug)]
pub(super) struct Gich {
    base: u64,
    count: usize,
    hcr: u32,
    vmcr: u32,
    apr: u32,
    lrs: [u32; MAX_LIST_REGISTERS],
    /// Bit n: list register n asks for a maintenance interrupt once it is inactive.
    eoi: u32,
}

impl Gich {
    /// The interface at `base`, with everything in it off and empty.
    ///
    /// # Safety
    ///
    /// GICH is at `base`, mapped as device memory for good, and this CPU has no other such object.
    pub(super) unsafe fn new(base: u64) -> Self {
        let mut gich = Self {
            base,
            count: 0,
            hcr: 0,
            vmcr: 0,
            apr: 0,
            lrs: [0; MAX_LIST_REGISTERS],
            eoi: 0,
        };
        gich.write(GICH_HCR, 0);
        // GICH_VTR.ListRegs.
        gich.count = ((gich.read(GICH_VTR) & 0x3f) as usize + 1).min(MAX_LIST_REGISTERS);
        for n in 0..gich.count as u64 {
            gich.write(GICH_LR + 4 * n, 0);
        }
        gich.write(GICH_APR, 0);
        gich.write(GICH_VMCR, 0);
        gich.vmcr = gich.read(GICH_VMCR);
        gich
    }

    /// List registers there are.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    fn read(&self, register: u64) -> u32 {
        // SAFETY: a register of GICH, by the promise to `new`; reading has no side effect.
        unsafe { ptr::read_volatile((self.base + register) as *const u32) }
    }

    fn write(&self, register: u64, value: u32) {
        // SAFETY: a register of GICH, by the promise to `new`. It governs the virtual interrupts of what
        // runs at EL1, and by a list register's HW bit one physical interrupt that its caller has checked.
        unsafe { ptr::write_volatile((self.base + register) as *mut u32, value) }
    }

    /// Loads list register `n`, given in ICH_LR's format; `n` is below [`Self::count`].
    pub(super) fn write_lr(&mut self, n: usize, value: u64) {
        let word = gich::encode(value);
        let Some(held) = self.lrs.get_mut(n) else {
            return;
        };
        if *held == word {
            return;
        }
        *held = word;
        let asks = word & (gich::HW | gich::EOI) == gich::EOI;
        self.eoi = self.eoi & !(1 << n) | u32::from(asks) << n;
        self.write(GICH_LR + 4 * n as u64, word);
    }

    /// Reads list register `n`, in ICH_LR's format; `n` is below [`Self::count`].
    pub(super) fn read_lr(&mut self, n: usize) -> u64 {
        // An empty one stays so.
        if self.lrs.get(n).is_none_or(|&held| held == 0) {
            return 0;
        }
        let word = self.read(GICH_LR + 4 * n as u64);
        if let Some(held) = self.lrs.get_mut(n) {
            *held = word;
        }
        gich::decode(word)
    }

    /// Loads VMCR and the active priorities, and turns the interface on. The guest reads the same
    /// peripheral through GICV: accesses to a device are seen in their order.
    pub(super) fn load(&mut self, regs: &VgicRegs, hcr: u64) {
        let (vmcr, apr) = (regs.vmcr as u32, regs.ap1r[0] as u32);
        if vmcr != self.vmcr {
            self.vmcr = vmcr;
            self.write(GICH_VMCR, vmcr);
        }
        // Always: the last guest may have written GICV_APR, without an interrupt for which `save` would look.
        self.apr = apr;
        self.write(GICH_APR, apr);
        // UIE, LRENPIE and NPIE are where ICH_HCR_EL2 has them.
        let hcr = hcr as u32 | EN;
        if hcr != self.hcr {
            self.hcr = hcr;
            self.write(GICH_HCR, hcr);
        }
    }

    /// Saves what [`Self::load`] loaded, and silences the interface: the hostvisor runs with HCR_EL2.IMO
    /// clear, so that a virtual interrupt does not reach it; a maintenance interrupt would.
    pub(super) fn save(&mut self, regs: &mut VgicRegs) {
        if self.hcr != EN || self.eoi != 0 {
            self.hcr = 0;
            self.write(GICH_HCR, 0);
        }
        self.vmcr = self.read(GICH_VMCR);
        // A priority becomes active by acknowledging what a list register holds. (Or by a write to GICV_APR,
        // which lasts no longer than the run then; a read costs too much for that.)
        if self.apr != 0 || self.lrs.iter().any(|&held| held != 0) {
            self.apr = self.read(GICH_APR);
        }
        regs.vmcr = u64::from(self.vmcr);
        regs.ap1r[0] = u64::from(self.apr);
    }
}
