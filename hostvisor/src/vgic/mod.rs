//! The guests' interrupt controller: a distributor, for a GICv3 redistributors, and the filling of list
//! registers, for one VM. Guests have the version that the machine has.
//!
//! Plain data without locks, hardware or allocation after [`Vgic::new`]; the caller wraps it in a lock.
//! Everything a guest writes ends here, so nothing here panics or runs longer than one pass over the
//! VM's interrupts. What is modelled: 32 private interrupts a vCPU and 256 SPIs. Of a GICv3 (GIC
//! architecture, IHI 0069) one security state (GICD_CTLR.DS=1), affinity routing always on, no LPIs, no ITS,
//! no extended ranges, no message-based SPIs. Of a GICv2 (IHI 0048) no security extensions; its CPU
//! interface is the machine's own and not here.
//!
//! An interrupt's life: a device, a register write or an SGI makes it pending; once it is enabled too,
//! it is *queued* at one vCPU (a bit in that vCPU's to-do words); [`Vgic::fill`] moves it into a list
//! register, where it is *held*; [`Vgic::drain`] takes back what the guest made of it. Only drain knows
//! that state, so while a vCPU runs the copy here is the last known one. A register write that concerns
//! an interrupt held elsewhere changes the copy, wins over the list register at the drain, and kicks the
//! holder out of its guest so that this happens at once.

mod block;
mod deliver;
mod lists;
mod registers;
mod sgi;
#[cfg(test)]
mod tests;
mod v2;

use crate::devices::map::{GICD_BASE, GICD_SIZE};
use abi::run::MAX_LIST_REGISTERS;
use abi::{MAX_VCPUS, MAX_VCPUS_GICV2};
use alloc::vec::Vec;
use block::{Block, Groups};
use core::ops::{BitOr, BitOrAssign};
use sgi::Senders;

/// Shared peripheral interrupts: INTIDs 32 to 287.
pub const SPIS: usize = 256;
const SPI_BLOCKS: usize = SPIS / 32;
/// Blocks a vCPU can be given interrupts from: its private one and those of SPIs.
const BLOCKS: usize = 1 + SPI_BLOCKS;
/// The first SPI.
const FIRST_SPI: u32 = 32;
/// SGIs are INTIDs 0 to 15.
const SGIS: u32 = 16;
/// No vCPU: an SPI routed to an affinity that nobody has.
const NOBODY: u8 = u8::MAX;

/// Version of the architecture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    /// GICv2.
    V2,
    /// GICv3.
    V3,
}

impl Model {
    /// Most vCPUs that such a controller serves.
    #[must_use]
    pub const fn max_vcpus(self) -> usize {
        match self {
            Self::V2 => MAX_VCPUS_GICV2,
            Self::V3 => MAX_VCPUS,
        }
    }

    /// True if a register of it can be at `ipa`, which is one of either version's.
    #[must_use]
    pub const fn is_at(self, ipa: u64) -> bool {
        match self {
            Self::V2 => ipa < GICD_BASE + GICD_SIZE,
            Self::V3 => true,
        }
    }
}

/// vCPUs that have something new to look at: bit n for vCPU n.
///
/// One that runs on another CPU is to be made to exit, drain and fill; one that is blocked is to be
/// woken if [`Vgic::deliverable`] says so. The bit of the vCPU being served needs nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct KickMask(pub u32);

impl KickMask {
    /// Nobody.
    pub const NONE: Self = Self(0);

    const fn one(vcpu: u8) -> Self {
        if vcpu < 32 {
            Self(1 << vcpu)
        } else {
            Self::NONE
        }
    }

    /// True if nobody is to be kicked.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True if `vcpu` is to be kicked.
    #[must_use]
    pub const fn contains(self, vcpu: usize) -> bool {
        vcpu < MAX_VCPUS && self.0 & (1 << vcpu) != 0
    }

    /// All but `vcpu`.
    pub const fn without(self, vcpu: usize) -> Self {
        if vcpu < MAX_VCPUS {
            Self(self.0 & !(1 << vcpu))
        } else {
            self
        }
    }

    /// The vCPUs' indices, lowest first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        block::bits(self.0).map(|bit| bit as usize)
    }
}

impl BitOr for KickMask {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for KickMask {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// What [`Vgic::fill`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Fill {
    /// List registers written, from 0: the run page's LR_COUNT.
    pub count: usize,
    /// More is waiting than fitted: set ICH_HCR_EL2.UIE, so that the guest exits when it has worked
    /// off all list registers but one.
    pub underflow: bool,
}

/// One vCPU's redistributor and the interrupts on their way to it.
#[derive(Clone, Debug)]
struct Cpu {
    private: Block,
    /// Queued for this vCPU: pending and enabled, or active. Word 0 private, the others SPIs.
    todo: [u32; BLOCKS],
    /// Bit n: word n of `todo` is not zero.
    summary: u32,
    /// What list register n holds, for the first `filled`.
    lists: [u16; MAX_LIST_REGISTERS],
    filled: usize,
    /// GICv2: who sent the SGIs that are pending or active.
    senders: [Senders; SGIS as usize],
    /// GICR_WAKER.ProcessorSleep: kept for reading back, without effect on delivery.
    asleep: bool,
}

/// An SPI's routing.
#[derive(Clone, Copy, Debug)]
struct Route {
    /// GICD_IROUTER: affinities 2 to 0, and Interrupt_Routing_Mode in bit 31; of a GICv2, the byte of
    /// GICD_ITARGETSR.
    register: u32,
    /// The vCPU that `register` means, or [`NOBODY`].
    target: u8,
    /// The vCPU where the interrupt is queued, held or active.
    owner: u8,
}

/// The interrupt controller of one VM.
#[derive(Clone, Debug)]
pub struct Vgic {
    model: Model,
    groups: Groups,
    vtimer: u32,
    /// The virtual timer's list register carries the HW bit.
    vtimer_hw: bool,
    cpus: Vec<Cpu>,
    spis: [Block; SPI_BLOCKS],
    routes: [Route; SPIS],
}

impl Vgic {
    /// A controller as after reset, for `vcpus` vCPUs (1 to [`Model::max_vcpus`]; other numbers are brought
    /// into that range). `vtimer` is the virtual timer's INTID, the same in the guest and in the
    /// machine: its list register carries the HW bit.
    ///
    /// All interrupts start disabled and level-sensitive (SGIs: edge-triggered). On a GICv3 in group 1, SPIs
    /// routed to vCPU 0; on a GICv2 in group 0, SGIs enabled, SPIs routed to nobody unless there is one
    /// vCPU only.
    #[must_use]
    pub fn new(model: Model, vcpus: usize, vtimer: u32) -> Self {
        let vcpus = vcpus.clamp(1, model.max_vcpus());
        let mut private = Block::new(0x0000_ffff);
        let mut spi = Block::new(0);
        let mut target = 0;
        if model == Model::V2 {
            private.group1 = 0;
            private.enabled = v2::SGI_MASK;
            spi.group1 = 0;
            target = if vcpus == 1 { 0 } else { NOBODY };
        }
        let cpu = Cpu {
            private,
            todo: [0; BLOCKS],
            summary: 0,
            lists: [0; MAX_LIST_REGISTERS],
            filled: 0,
            senders: [Senders::NONE; SGIS as usize],
            asleep: false,
        };
        Self {
            model,
            groups: Groups::default(),
            vtimer,
            vtimer_hw: true,
            cpus: alloc::vec![cpu; vcpus],
            spis: core::array::from_fn(|_| spi.clone()),
            routes: [Route {
                register: 0,
                target,
                owner: target,
            }; SPIS],
        }
    }

    /// For a machine on which the HW bit of a list register deactivates nothing: the guest's deactivation of
    /// the virtual timer's interrupt raises a maintenance interrupt, as any other level-sensitive one's.
    #[must_use]
    pub fn without_hw_bit(self) -> Self {
        Self {
            vtimer_hw: false,
            ..self
        }
    }

    /// Block `index` as vCPU `vcpu` sees it: 0 is its private one.
    fn block(&self, vcpu: usize, index: usize) -> Option<&Block> {
        match index.checked_sub(1) {
            None => self.cpus.get(vcpu).map(|cpu| &cpu.private),
            Some(spi) => self.spis.get(spi),
        }
    }

    fn block_mut(&mut self, vcpu: usize, index: usize) -> Option<&mut Block> {
        match index.checked_sub(1) {
            None => self.cpus.get_mut(vcpu).map(|cpu| &mut cpu.private),
            Some(spi) => self.spis.get_mut(spi),
        }
    }
}
