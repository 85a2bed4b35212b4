//! The run page: one 4 KiB frame a vCPU, in state *Host, shared with core*.
//!
//! 512 little-endian 64-bit words, only ever read and written as whole words. The core reads each
//! word it needs once, checks the copy, and never trusts the page again. Reason and arguments of an
//! exit travel in registers (x1–x4 of the answer to VCPU_RUN), so that they cannot be changed
//! between check and use on either side.

/// Words in a run page.
pub const WORDS: usize = 512;

/// Host → core: what to do with the access that caused the last exit, see [`ENTRY_REPLY`].
/// If an access waits for its answer, the core sets the word to 0 as it enters: whether the access is completed,
/// aborted, or left for the guest to repeat.
pub const ENTRY_FLAGS: usize = 0;
/// Host → core: the value an MMIO read returns, in its low bits.
pub const MMIO_VALUE: usize = 1;
/// Host → core: list registers in use, counted from 0; at most the machine has.
pub const LR_COUNT: usize = 2;
/// Host → core: ICH_HCR_EL2 bits; only [`ICH_HCR_ALLOWED`] are taken over.
pub const ICH_HCR: usize = 3;
/// Core → host at every exit: [`TIMER_VIRTUAL`] and [`TIMER_PHYSICAL`], the levels of the timers'
/// outputs at the exit.
pub const TIMER_LINES: usize = 4;
/// Core → host at every exit: CNTPCT value at which the virtual timer's output rises, `u64::MAX`
/// if it is off or masked.
pub const VTIMER_DEADLINE: usize = 5;
/// Core → host at every exit: the same for the physical timer.
pub const PTIMER_DEADLINE: usize = 6;
/// Core → host at every exit: [`STATE_FP_LIVE`].
pub const STATE_FLAGS: usize = 7;
/// Both ways: ICH_LR<n>_EL2 in word `LIST_REGISTERS + n`. The core writes back the first
/// [`LR_COUNT`] at every exit.
pub const LIST_REGISTERS: usize = 16;
/// Most list registers a GIC has (GIC architecture, ICH_VTR_EL2.ListRegs).
pub const MAX_LIST_REGISTERS: usize = 16;

/// [`ENTRY_FLAGS`]: [`MMIO_VALUE`] answers the MMIO read; an MMIO write is done.
pub const ENTRY_REPLY: u64 = 1 << 0;
/// [`ENTRY_FLAGS`]: the access ends in a synchronous external abort in the guest.
pub const ENTRY_ABORT: u64 = 1 << 1;

/// [`ENTRY_FLAGS`]: WFE exits, because others wait for this CPU.
pub const ENTRY_TRAP_WFE: u64 = 1 << 2;

/// [`TIMER_LINES`]: CNTV output is high.
pub const TIMER_VIRTUAL: u64 = 1 << 0;
/// [`TIMER_LINES`]: CNTP output is high.
pub const TIMER_PHYSICAL: u64 = 1 << 1;

/// [`STATE_FLAGS`]: the FP/SIMD registers of this CPU hold the vCPU's state; VCPU_PUT before it
/// runs elsewhere.
pub const STATE_FP_LIVE: u64 = 1 << 0;

/// ICH_HCR_EL2 bits a hostvisor may set: UIE (bit 1), LRENPIE (bit 2), NPIE (bit 3).
pub const ICH_HCR_ALLOWED: u64 = 0b1110;

/// ICH_LR state field: pending (bit 62).
pub const LR_PENDING: u64 = 1 << 62;
/// ICH_LR state field: active (bit 63).
pub const LR_ACTIVE: u64 = 1 << 63;
/// ICH_LR.HW: the virtual interrupt stands for the physical one in bits 44:32. Allowed only for
/// the virtual timer's INTID ([`crate::hypercall::CoreInfo::VtimerIntid`]) on both sides.
pub const LR_HW: u64 = 1 << 61;
/// ICH_LR.Group: group 1.
pub const LR_GROUP1: u64 = 1 << 60;
/// ICH_LR.EOI for a software interrupt: maintenance interrupt when the guest deactivates it.
pub const LR_EOI: u64 = 1 << 41;
/// On a GICv2, of an SGI: bits 12:10 are the vCPU that sent it (GICH_LR.CPUID; in ICH_LR the place is
/// that of a guest with the GICv2 view). 0 on a GICv3.
pub const LR_SGI_SOURCE: u64 = 7 << LR_SGI_SOURCE_SHIFT;
/// [`LR_SGI_SOURCE`]: lowest bit.
pub const LR_SGI_SOURCE_SHIFT: u32 = 10;
/// ICH_LR.Priority: lowest bit.
pub const LR_PRIORITY_SHIFT: u32 = 48;
/// ICH_LR.pINTID: lowest bit.
pub const LR_PINTID_SHIFT: u32 = 32;

/// Why VCPU_RUN returned. x1 of the answer; arguments in x2–x4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum ExitReason {
    /// A physical interrupt is pending: take it.
    Irq = 0,
    /// The guest waits for an interrupt (WFI, or PSCI CPU_SUSPEND).
    Wfi = 1,
    /// `(ipa, size)`: MMIO read of `size` bytes (1, 2, 4, 8).
    MmioRead = 2,
    /// `(ipa, size, value)`: MMIO write.
    MmioWrite = 3,
    /// `(value, groups)`: the guest wrote ICC_SGI1R_EL1 (groups 1), or ICC_SGI0R_EL1 or ICC_ASGI1R_EL1 (groups 0).
    Sgi = 4,
    /// `(vcpu)`: PSCI CPU_ON powered vCPU `vcpu` on: schedule it.
    CpuOn = 5,
    /// PSCI CPU_OFF: do not run this vCPU until another powers it on.
    CpuOff = 6,
    /// PSCI SYSTEM_OFF. No vCPU of the VM enters again; one that runs on another CPU does so until its
    /// next exit.
    SystemOff = 7,
    /// PSCI SYSTEM_RESET. Otherwise as [`Self::SystemOff`].
    SystemReset = 8,
    /// The guest programmed its physical timer: look at the deadline.
    Timer = 9,
    /// `(page, kind)`: access to a page that maps nothing, by an instruction that gives no syndrome
    /// (kind 0: read, 1: write) or by an instruction fetch (kind 2). The access repeats on the next run unless [`ENTRY_ABORT`].
    MemFault = 10,
    /// The guest yields (WFE), and [`ENTRY_TRAP_WFE`] asked to know.
    Wfe = 11,
    /// A physical SError arrived while the guest ran; nobody can say on whose behalf.
    SError = 12,
}

impl ExitReason {
    /// Number of reasons; each is below it.
    pub const COUNT: usize = 13;

    /// Decodes x1 of VCPU_RUN's answer.
    #[must_use]
    pub const fn decode(value: u64) -> Option<Self> {
        Some(match value {
            0 => Self::Irq,
            1 => Self::Wfi,
            2 => Self::MmioRead,
            3 => Self::MmioWrite,
            4 => Self::Sgi,
            5 => Self::CpuOn,
            6 => Self::CpuOff,
            7 => Self::SystemOff,
            8 => Self::SystemReset,
            9 => Self::Timer,
            10 => Self::MemFault,
            11 => Self::Wfe,
            12 => Self::SError,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_survives_the_register() {
        let known = (0..).map_while(ExitReason::decode);
        let known = (0..).zip(known).map(|(n, reason)| {
            assert_eq!(reason as u64, n);
        });
        assert_eq!(known.count(), ExitReason::COUNT);
        assert_eq!(ExitReason::decode(u64::MAX), None);
    }

    /// GIC architecture, ICH_LR<n>_EL2 and ICH_HCR_EL2; for the sender of an SGI GICv2's GICH_LRn.
    #[test]
    fn list_registers_are_the_architectures() {
        let state = [LR_PENDING, LR_ACTIVE, LR_HW, LR_GROUP1, LR_EOI];
        assert_eq!(state, [62, 63, 61, 60, 41].map(|bit| 1 << bit));
        assert_eq!(LR_SGI_SOURCE, 0b1_1100_0000_0000);
        assert_eq!(ICH_HCR_ALLOWED, 0b1110);
    }

    /// `docs/run-page.md`.
    #[test]
    fn flags_are_one_bit_each() {
        let entry = [ENTRY_REPLY, ENTRY_ABORT, ENTRY_TRAP_WFE];
        assert_eq!(entry, [1, 2, 4]);
        assert_eq!([TIMER_VIRTUAL, TIMER_PHYSICAL, STATE_FP_LIVE], [1, 2, 1]);
    }
}
