//! What the machine's device tree says, as plain data.

use crate::ranges::{List, Range};
use abi::MAX_CPUS;
use arch::platform::{RedistributorRow, UartModel};

/// Most pieces of RAM boot hands over. Further, smaller pieces are left unused.
pub const MAX_RAM: usize = 8;
/// Most ranges of RAM that firmware keeps for itself.
pub const MAX_RESERVED: usize = 32;
/// Most rows of GICv3 redistributors.
pub const MAX_REDISTRIBUTORS: usize = 8;
/// Most interrupt translation services.
pub const MAX_ITS: usize = 8;
/// Most ranges of a GICv2 that are kept from the hostvisor: GICH and GICV at two addresses.
pub const MAX_GICV2_WITHHELD: usize = 4;
/// Most other devices that are kept from the hostvisor; trace has several for each CPU.
pub const MAX_WITHHELD: usize = 40;

/// A CPU of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cpu {
    /// Affinity fields of MPIDR_EL1, as PSCI takes them.
    pub mpidr: u64,
}

/// The interrupt controller.
// There is one, before there is a heap.
#[expect(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug, Default)]
pub enum Gic {
    /// None that boot knows.
    #[default]
    Unknown,
    /// GICv2.
    V2(GicV2),
    /// GICv3 or v4.
    V3 {
        /// GICD.
        distributor: Range,
        /// Rows of GICR frames.
        redistributors: List<RedistributorRow, MAX_REDISTRIBUTORS>,
        /// Interrupt translation services: they write memory, so the hostvisor never gets them.
        its: List<Range, MAX_ITS>,
    },
}

/// A GICv2. Its distributor and its CPU interfaces are the hostvisor's alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct GicV2 {
    /// GICD's first byte.
    pub distributor: u64,
    /// GICH's first byte; `None` if the tree does not name GICH and GICV: no virtualization extensions.
    pub hypervisor: Option<u64>,
    /// GICV's first byte, of [`abi::GICC_SIZE`] bytes.
    pub virtual_cpu_interface: u64,
    /// All there is of GICH and GICV, aliases included. Whole pages.
    pub withheld: List<Range, MAX_GICV2_WITHHELD>,
}

/// INTIDs of the generic timer's interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// Secure EL1 physical timer.
    pub secure_physical: u32,
    /// Non-secure EL1 physical timer.
    pub physical: u32,
    /// Virtual timer.
    pub virtual_: u32,
    /// EL2 physical timer.
    pub hypervisor: u32,
}

impl Default for Timers {
    /// The assignment of the Base System Architecture (DEN0094).
    fn default() -> Self {
        Self {
            secure_physical: 29,
            physical: 30,
            virtual_: 27,
            hypervisor: 26,
        }
    }
}

/// How firmware starts CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CpuStart {
    /// By nothing the tree names.
    #[default]
    Unknown,
    /// PSCI 0.2 or newer, by SMC.
    PsciSmc,
    /// PSCI by HVC: useless from EL2.
    PsciHvc,
    /// PSCI 0.1 with function numbers of its own: not supported.
    PsciLegacy,
    /// Spin table: not supported yet.
    SpinTable,
}

/// The UART for boot messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uart {
    /// First register.
    pub base: u64,
    /// How to drive it.
    pub model: UartModel,
}

/// All boot learns from the device tree.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootInfo {
    /// RAM that may be used, whole pages, sorted, without what firmware reserves.
    pub ram: List<Range, MAX_RAM>,
    /// Bytes of RAM in the tree's memory nodes, reserved ones included.
    pub ram_total: u64,
    /// Bytes of RAM left unused because they lie in too many pieces.
    pub ram_dropped: u64,
    /// Ranges that firmware keeps: neither the core's nor the hostvisor's to touch. Whole pages.
    pub reserved: List<Range, MAX_RESERVED>,
    /// CPUs to use, in the tree's order.
    pub cpus: List<Cpu, MAX_CPUS>,
    /// Usable CPUs the tree names, used or not.
    pub cpus_in_tree: usize,
    /// How to start them.
    pub cpu_start: CpuStart,
    /// Devices that write memory where they are told to or reach into processors, and that nobody needs, see
    /// [`crate::withheld`].
    pub withheld: List<Range, MAX_WITHHELD>,
    /// The interrupt controller.
    pub gic: Gic,
    /// Timer interrupts.
    pub timers: Timers,
    /// The console, if it is of a kind boot can drive.
    pub uart: Option<Uart>,
    /// /chosen linux,initrd-start and -end: the bundle. Empty if there is none.
    pub initrd: Range,
    /// The tree's own size in bytes.
    pub tree_size: u64,
}

impl BootInfo {
    /// Frames of RAM in use.
    #[must_use]
    pub fn frames(&self) -> usize {
        (self.ram.total() / abi::PAGE_SIZE) as usize
    }
}
