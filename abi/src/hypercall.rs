//! Host → core hypercalls: `HVC #0` from the hostvisor's EL1.
//!
//! x0 holds the function number, x1–x4 the arguments. The answer is in x0 (0 or an
//! [`crate::Error`]) and x1–x4; every other register keeps its value. `docs/hypercalls/` has a page
//! for each call with the order of its checks.
//!
//! A *VM handle* is opaque to the hostvisor and never reused: a handle kept after destroy answers
//! [`crate::Error::NotFound`].

/// First function number. SMC Calling Convention (DEN0028): fast call, 64-bit, owner 6
/// (vendor-specific hypervisor service).
pub const BASE: u64 = 0xC600_1000;

macro_rules! host_calls {
    ($($(#[$doc:meta])* $name:ident = $offset:literal,)*) => {
        /// The calls a hostvisor may make.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u64)]
        pub enum HostCall {
            $($(#[$doc])* $name = BASE + $offset,)*
        }

        impl HostCall {
            /// Every call, in numeric order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Decodes x0 of an HVC.
            #[must_use]
            pub const fn decode(x0: u64) -> Option<Self> {
                $(if x0 == Self::$name as u64 { return Some(Self::$name); })*
                None
            }
        }
    };
}

host_calls! {
    /// `(index)` → `(value)`: facts about the core, see [`CoreInfo`].
    CoreInfo = 0x00,
    /// `(flags, vcpus)` → `(vm)`: makes an empty VM; flags see [`VM_PROTECTED`].
    VmCreate = 0x01,
    /// `(vm, entry_ipa, x0)`: where vCPU 0 starts and what it finds in x0 (the FDT's IPA).
    VmSetBoot = 0x02,
    /// `(vm)`: closes construction and powers vCPU 0 on.
    VmStart = 0x03,
    /// `(vm)` → `(frames)`: first call makes the VM dead; repeat while it answers `Again` or `Busy`. The frames
    /// that it still has are then given back with [`Self::MemReclaim`], and a last call frees the slot.
    VmDestroy = 0x04,
    /// `(vm, ipa, pfn, count)` → `(done)`: Host frames become the VM's private memory.
    MemDonate = 0x05,
    /// `(vm, ipa, pfn, count)` → `(done)`: Host frames are lent to an open VM; both see them.
    MemLend = 0x06,
    /// `(vm, ipa, count)` → `(done)`: takes lent frames back from a live open VM.
    MemUnmap = 0x07,
    /// `(vm, pfn, count)` → `(done)`: takes frames of a dead VM back, zeroed if they were private.
    MemReclaim = 0x08,
    /// `(vm, vcpu, pfn)`: makes vCPU `vcpu`; the Host frame `pfn` becomes its run page.
    VcpuCreate = 0x09,
    /// `(vm, vcpu)` → `(reason, arg0, arg1, arg2)` in x1–x4: runs until something needs the host;
    /// see [`crate::run`].
    VcpuRun = 0x0A,
    /// `(vm, vcpu)`: moves the vCPU's FP/SIMD state from this CPU's registers to memory, so that
    /// it may run elsewhere.
    VcpuPut = 0x0B,
    /// `(vm, vcpu, index)` → `(value)`: counters, see [`VcpuStat`].
    VcpuStat = 0x0C,
}

/// [`HostCall::VmCreate`] flag: the VM's memory is private to it (donated, never lent).
pub const VM_PROTECTED: u64 = 1;

/// Most frames one memory call handles; a longer range answers `Ok` with `done` short of `count`.
pub const MAX_FRAMES_PER_CALL: u64 = 512;

/// What [`HostCall::CoreInfo`] answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum CoreInfo {
    /// [`crate::ABI_VERSION`].
    AbiVersion = 0,
    /// Physical CPUs in use, at most [`crate::MAX_CPUS`].
    Cpus = 1,
    /// Frames of RAM in all.
    RamFrames = 2,
    /// Frames the core keeps for itself: image (vCPUs' state is in it), EL2's tables, frame table, page-table
    /// pool.
    CoreFrames = 3,
    /// Page-table frames free at the moment.
    PoolFree = 4,
    /// VM slots in all.
    VmSlots = 5,
    /// Widest IPA a VM may use, in bits.
    IpaBits = 6,
    /// List registers of the GIC virtual interface.
    ListRegisters = 7,
    /// Virtual timer interrupt (INTID) as wired on this machine.
    VtimerIntid = 8,
    /// Host time (CNTPCT ticks) at which the boot CPU entered the corevisor.
    BootTicks = 9,
    /// Host time (CNTPCT ticks) at which the first guest instruction ran; 0 before.
    FirstGuestTicks = 10,
}

impl CoreInfo {
    /// Decodes x1 of [`HostCall::CoreInfo`].
    #[must_use]
    pub const fn decode(index: u64) -> Option<Self> {
        Some(match index {
            0 => Self::AbiVersion,
            1 => Self::Cpus,
            2 => Self::RamFrames,
            3 => Self::CoreFrames,
            4 => Self::PoolFree,
            5 => Self::VmSlots,
            6 => Self::IpaBits,
            7 => Self::ListRegisters,
            8 => Self::VtimerIntid,
            9 => Self::BootTicks,
            10 => Self::FirstGuestTicks,
            _ => return None,
        })
    }
}

/// Counters of [`HostCall::VcpuStat`]: traps at EL2, those that end in an exit to the hostvisor included; none
/// says anything about a guest's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum VcpuStat {
    /// HVC and SMC of the guest.
    CoreHypercall = 0,
    /// Reads and writes of system registers that trap.
    CoreSysreg = 1,
    /// First uses of FP/SIMD after another owner.
    CoreFp = 2,
    /// Exceptions injected: unknown registers, aborts.
    CoreInject = 3,
}

impl VcpuStat {
    /// Number of counters.
    pub const COUNT: usize = 4;
}

#[cfg(test)]
mod tests {
    use super::{CoreInfo, HostCall};

    #[test]
    fn decode_is_the_inverse_of_the_number() {
        for &call in HostCall::ALL {
            assert_eq!(HostCall::decode(call as u64), Some(call));
        }
        assert_eq!(HostCall::decode(0), None);
        assert_eq!(HostCall::decode(super::BASE + 0xfff), None);
    }

    #[test]
    fn every_fact_has_its_number() {
        let known = (0..).map_while(CoreInfo::decode);
        let numbers: [u64; 11] = core::array::from_fn(|n| n as u64);
        assert!(known.map(|fact| fact as u64).eq(numbers));
        assert_eq!(CoreInfo::decode(u64::MAX), None);
    }
}
