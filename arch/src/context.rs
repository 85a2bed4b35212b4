//! Saved processor state: plain data, laid out for the assembly that fills it.

/// General-purpose registers, PC and PSTATE of a world (a guest vCPU, or the hostvisor on a CPU).
///
/// `el2/world.rs` addresses the fields by [`core::mem::offset_of`].
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct GpRegs {
    /// x0–x30.
    pub x: [u64; 31],
    /// Where the world goes on (ELR_EL2).
    pub pc: u64,
    /// Its PSTATE (SPSR_EL2).
    pub pstate: u64,
}

impl GpRegs {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            x: [0; 31],
            pc: 0,
            pstate: 0,
        }
    }

    /// Reads Xn; register 31 is XZR.
    #[must_use]
    pub fn read(&self, n: u64) -> u64 {
        usize::try_from(n)
            .ok()
            .and_then(|n| self.x.get(n))
            .copied()
            .unwrap_or(0)
    }

    /// Writes Xn; register 31 is XZR.
    pub fn write(&mut self, n: u64, value: u64) {
        if let Some(x) = usize::try_from(n).ok().and_then(|n| self.x.get_mut(n)) {
            *x = value;
        }
    }
}

macro_rules! el1_registers {
    ($($(#[$doc:meta])* $name:ident: $sysreg:literal,)*) => {
        /// The EL1 and EL0 system registers that belong to a world and are switched with it.
        ///
        /// Registers absent here are either trapped (and so never hold a world's state), banked by
        /// stage 2, or constant.
        #[derive(Clone, Debug, Default)]
        pub struct El1Regs {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl El1Regs {
            /// All zero.
            #[must_use]
            pub const fn new() -> Self {
                Self { $($name: 0,)* }
            }

            /// Fills `self` from the processor.
            #[cfg(target_os = "none")]
            pub fn save(&mut self) {
                // SAFETY: reading EL1 and EL0 registers at EL2 has no side effect.
                unsafe {
                    $(core::arch::asm!(concat!("mrs {}, ", $sysreg), out(reg) self.$name,
                        options(nomem, nostack, preserves_flags));)*
                }
            }

            /// Writes `self` to the processor. Takes effect at the next exception return.
            #[cfg(target_os = "none")]
            pub fn load(&self) {
                // SAFETY: these registers govern execution at EL1 and EL0 only; EL2 uses none.
                unsafe {
                    $(core::arch::asm!(concat!("msr ", $sysreg, ", {}"), in(reg) self.$name,
                        options(nomem, nostack, preserves_flags));)*
                }
            }
        }
    };
}

el1_registers! {
    /// System control.
    sctlr: "sctlr_el1",
    /// Translation control.
    tcr: "tcr_el1",
    /// Translation table base 0.
    ttbr0: "ttbr0_el1",
    /// Translation table base 1.
    ttbr1: "ttbr1_el1",
    /// Memory attribute indirection.
    mair: "mair_el1",
    /// Auxiliary memory attribute indirection.
    amair: "amair_el1",
    /// Vector base.
    vbar: "vbar_el1",
    /// Context id.
    contextidr: "contextidr_el1",
    /// Access to FP/SIMD from EL1 and EL0.
    cpacr: "cpacr_el1",
    /// Exception link.
    elr: "elr_el1",
    /// Saved PSTATE.
    spsr: "spsr_el1",
    /// Syndrome.
    esr: "esr_el1",
    /// Fault address.
    far: "far_el1",
    /// Auxiliary fault status 0.
    afsr0: "afsr0_el1",
    /// Auxiliary fault status 1.
    afsr1: "afsr1_el1",
    /// Result of an address translation instruction.
    par: "par_el1",
    /// Stack pointer of EL0.
    sp_el0: "sp_el0",
    /// Stack pointer of EL1.
    sp_el1: "sp_el1",
    /// Thread pointer of EL0.
    tpidr_el0: "tpidr_el0",
    /// Read-only thread pointer of EL0.
    tpidrro_el0: "tpidrro_el0",
    /// Thread pointer of EL1.
    tpidr_el1: "tpidr_el1",
    /// EL0 access to the counters and timers.
    cntkctl: "cntkctl_el1",
    /// Cache selected by CCSIDR.
    csselr: "csselr_el1",
    /// Debug control: the core writes only software step bits here for a guest.
    mdscr: "mdscr_el1",
}

/// FP/SIMD registers.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub struct FpRegs {
    /// v0–v31.
    pub v: [u128; 32],
    /// Status.
    pub fpsr: u64,
    /// Control.
    pub fpcr: u64,
}

impl FpRegs {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            v: [0; 32],
            fpsr: 0,
            fpcr: 0,
        }
    }
}

impl Default for FpRegs {
    fn default() -> Self {
        Self::new()
    }
}

/// State of the GIC virtual CPU interface besides the list registers (GIC architecture §12.4).
#[derive(Clone, Debug, Default)]
pub struct VgicRegs {
    /// ICH_VMCR_EL2.
    pub vmcr: u64,
    /// ICH_AP0R<n>_EL2.
    pub ap0r: [u64; 4],
    /// ICH_AP1R<n>_EL2.
    pub ap1r: [u64; 4],
}

impl VgicRegs {
    /// Reset state.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            vmcr: 0,
            ap0r: [0; 4],
            ap1r: [0; 4],
        }
    }
}

/// A timer as its two registers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timer {
    /// CTL: ENABLE (bit 0), IMASK (bit 1); ISTATUS (bit 2) is computed.
    pub ctl: u64,
    /// Compare value.
    pub cval: u64,
}

impl Timer {
    /// CTL.ENABLE.
    pub const ENABLE: u64 = 1 << 0;
    /// CTL.IMASK.
    pub const IMASK: u64 = 1 << 1;
    /// CTL.ISTATUS.
    pub const ISTATUS: u64 = 1 << 2;

    /// CTL as the timer shows it when its counter reads `count`.
    #[must_use]
    pub const fn status(self, count: u64) -> u64 {
        let fires = self.ctl & Self::ENABLE != 0 && count >= self.cval;
        (self.ctl & (Self::ENABLE | Self::IMASK)) | if fires { Self::ISTATUS } else { 0 }
    }

    /// True if the output is high when the counter reads `count`.
    #[must_use]
    pub const fn line(self, count: u64) -> bool {
        self.status(count) == Self::ENABLE | Self::ISTATUS
    }

    /// The count at which the output rises (or rose), `u64::MAX` if it is off or masked.
    #[must_use]
    pub const fn deadline(self) -> u64 {
        if self.ctl & (Self::ENABLE | Self::IMASK) == Self::ENABLE {
            self.cval
        } else {
            u64::MAX
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{GpRegs, Timer};

    #[test]
    fn register_31_is_zero() {
        let mut regs = GpRegs::new();
        regs.write(31, 7);
        regs.write(30, 5);
        assert_eq!((regs.read(31), regs.read(30), regs.read(99)), (0, 5, 0));
    }

    #[test]
    fn a_masked_or_disabled_timer_has_no_line_and_no_deadline() {
        for ctl in [0, 2, 3] {
            let t = Timer { ctl, cval: 10 };
            assert!(!t.line(20));
            assert_eq!(t.deadline(), u64::MAX);
        }
        let t = Timer { ctl: 1, cval: 10 };
        assert!(!t.line(9) && t.line(10));
        assert_eq!(t.deadline(), 10);
    }
}
