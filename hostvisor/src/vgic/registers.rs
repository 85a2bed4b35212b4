//! The distributor's and redistributors' registers of a GICv3 (IHI 0069, chapters 12.8 to 12.11, as seen with
//! GICD_CTLR.DS = 1 and affinity routing on), and the banks of registers that every version has.
//!
//! Registers that are not here, and accesses of a size the architecture does not allow for a register,
//! read as zero and ignore writes.

use super::block::{Block, Groups, bits};
use super::{BLOCKS, FIRST_SPI, KickMask, Model, NOBODY, SPIS, Vgic};
use crate::devices::map::{GICD_BASE, GICD_SIZE, GICR_BASE, GICR_STRIDE};

/// An SGI frame follows each redistributor's control frame at this distance.
const SGI_FRAME: u64 = 0x1_0000;

pub(super) const GICD_CTLR: u64 = 0x0000;
pub(super) const GICD_TYPER: u64 = 0x0004;
pub(super) const GICD_IIDR: u64 = 0x0008;
const GICD_IROUTER: u64 = 0x6000;
const GICR_IIDR: u64 = 0x0004;
const GICR_TYPER: u64 = 0x0008;
const GICR_TYPER_HIGH: u64 = 0x000c;
const GICR_WAKER: u64 = 0x0014;
const PIDR2: u64 = 0xffe8;

pub(super) const CTLR_ENABLE_GRP0: u64 = 1 << 0;
pub(super) const CTLR_ENABLE_GRP1: u64 = 1 << 1;
const CTLR_ARE: u64 = 1 << 4;
const CTLR_DS: u64 = 1 << 6;
/// GICD_TYPER: IDbits 9 (10-bit INTIDs), ITLinesNumber. All optional features off; Aff3 unsupported.
const TYPER: u64 = 9 << 19 | (BLOCKS as u64 - 1);
/// Implementer Arm (0x43b, what guests expect of a GICv3), product 'C', revision 0.
pub(super) const IIDR: u64 = 0x4300_043b;
/// GICv3 of Arm's numbering scheme.
const PIDR2_GICV3: u64 = 0x3b;
const TYPER_LAST: u64 = 1 << 4;
const TYPER_PROCESSOR_SHIFT: u32 = 8;
const WAKER_PROCESSOR_SLEEP: u64 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u64 = 1 << 2;
const IROUTER_IRM: u32 = 1 << 31;
/// Affinities 2 to 0 of GICD_IROUTER.
const IROUTER_AFFINITY: u32 = 0x00ff_ffff;

/// One of the 64 KiB frames.
#[derive(Clone, Copy)]
enum Frame {
    Distributor,
    Redistributor(usize),
    Sgi(usize),
}

/// A register that holds a field for each of some interrupts: same offsets in the distributor
/// (SPIs only, as affinity routing is on) and in the SGI frames (private ones only). In a GICv2's
/// distributor all of them.
#[derive(Clone, Copy)]
pub(super) enum Bank {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
    /// `first` is the interrupt within the block that the lowest byte belongs to.
    Priority {
        first: u32,
    },
    /// `half`: the lower or upper 16 interrupts of the block.
    Config {
        half: u32,
    },
}

impl Bank {
    /// The register at `offset` of a frame, and its block. `None` for others, wrong sizes included.
    pub(super) fn decode(offset: u64, size: u64) -> Option<(Self, usize)> {
        let byte_access = size == 1 && matches!(offset, 0x400..0x800);
        if !(size == 4 || byte_access) || !offset.is_multiple_of(size) {
            return None;
        }
        let word = offset as u32 & 0x7f;
        let (bank, block) = match offset {
            0x080..0x100 => (Self::Group, word / 4),
            0x100..0x180 => (Self::SetEnable, word / 4),
            0x180..0x200 => (Self::ClearEnable, word / 4),
            0x200..0x280 => (Self::SetPending, word / 4),
            0x280..0x300 => (Self::ClearPending, word / 4),
            0x300..0x380 => (Self::SetActive, word / 4),
            0x380..0x400 => (Self::ClearActive, word / 4),
            0x400..0x800 => {
                let intid = offset as u32 - 0x400;
                (Self::Priority { first: intid % 32 }, intid / 32)
            }
            0xc00..0xd00 => {
                let n = (offset as u32 - 0xc00) / 4;
                (Self::Config { half: n % 2 }, n / 2)
            }
            _ => return None,
        };
        Some((bank, block as usize))
    }
}

impl Vgic {
    /// A read of `size` bytes at `ipa` by vCPU `vcpu`; the value in the low bits.
    #[must_use]
    pub fn read(&self, vcpu: usize, ipa: u64, size: u64) -> u64 {
        match self.locate(ipa) {
            Some((Frame::Distributor, offset)) if self.model == Model::V2 => {
                self.read_v2(vcpu, offset, size)
            }
            Some((Frame::Distributor, offset)) => self.read_distributor(offset, size),
            Some((Frame::Redistributor(vcpu), offset)) => {
                self.read_redistributor(vcpu, offset, size)
            }
            Some((Frame::Sgi(vcpu), offset)) => match Bank::decode(offset, size) {
                Some((bank, 0)) => self
                    .block(vcpu, 0)
                    .map_or(0, |block| read_bank(block, bank, size)),
                _ => 0,
            },
            None => 0,
        }
    }

    /// True if what a read at `ipa` answers may be in list registers: pending and active states.
    #[must_use]
    pub const fn shows_state(ipa: u64) -> bool {
        matches!(ipa & (SGI_FRAME - 1), 0x200..0x400)
    }

    /// The vCPUs whose list registers hold interrupts of which a read at `ipa` by vCPU `vcpu` answers the last state known
    /// here. Kicked, they bring the present one, for the next read of somebody who waits for a change.
    pub fn holders(&self, vcpu: usize, ipa: u64, size: u64) -> KickMask {
        let (vcpu, offset) = match self.locate(ipa) {
            Some((Frame::Distributor, offset)) => (vcpu, offset),
            Some((Frame::Sgi(vcpu), offset)) => (vcpu, offset),
            _ => return KickMask::NONE,
        };
        match Bank::decode(offset, size) {
            Some((
                Bank::SetPending | Bank::ClearPending | Bank::SetActive | Bank::ClearActive,
                index,
            )) => self.kick_holders(vcpu, index, u32::MAX),
            _ => KickMask::NONE,
        }
    }

    /// A write of `size` bytes at `ipa` by vCPU `vcpu`; the value in the low bits.
    pub fn write(&mut self, vcpu: usize, ipa: u64, size: u64, value: u64) -> KickMask {
        match self.locate(ipa) {
            Some((Frame::Distributor, offset)) if self.model == Model::V2 => {
                self.write_v2(vcpu, offset, size, value)
            }
            Some((Frame::Distributor, offset)) => self.write_distributor(offset, size, value),
            Some((Frame::Redistributor(vcpu), GICR_WAKER)) if size == 4 => {
                if let Some(cpu) = self.cpus.get_mut(vcpu) {
                    cpu.asleep = value & WAKER_PROCESSOR_SLEEP != 0;
                }
                KickMask::NONE
            }
            Some((Frame::Sgi(vcpu), offset)) => match Bank::decode(offset, size) {
                Some((bank, 0)) => self.write_bank(vcpu, 0, bank, size, value as u32),
                _ => KickMask::NONE,
            },
            _ => KickMask::NONE,
        }
    }

    fn locate(&self, ipa: u64) -> Option<(Frame, u64)> {
        if !self.model.is_at(ipa) {
            return None;
        }
        if let Some(offset) = ipa.checked_sub(GICR_BASE) {
            let vcpu = (offset / GICR_STRIDE) as usize;
            let offset = offset % GICR_STRIDE;
            return (vcpu < self.cpus.len()).then_some(match offset.checked_sub(SGI_FRAME) {
                None => (Frame::Redistributor(vcpu), offset),
                Some(offset) => (Frame::Sgi(vcpu), offset),
            });
        }
        let offset = ipa.checked_sub(GICD_BASE)?;
        (offset < GICD_SIZE).then_some((Frame::Distributor, offset))
    }

    fn read_distributor(&self, offset: u64, size: u64) -> u64 {
        if let Some((spi, half)) = decode_router(offset, size) {
            let low = self.routes.get(spi).map_or(0, |route| route.register);
            return if half == RouterHalf::High {
                0
            } else {
                u64::from(low)
            };
        }
        match (offset, size) {
            (GICD_CTLR, 4) => CTLR_ARE | CTLR_DS | self.group_enables(),
            (GICD_TYPER, 4) => TYPER,
            (GICD_IIDR, 4) => IIDR,
            (PIDR2, 4) => PIDR2_GICV3,
            _ => match Bank::decode(offset, size) {
                None | Some((_, 0)) => 0,
                Some((bank, index)) => self
                    .block(0, index)
                    .map_or(0, |block| read_bank(block, bank, size)),
            },
        }
    }

    fn read_redistributor(&self, vcpu: usize, offset: u64, size: u64) -> u64 {
        let last = if vcpu + 1 == self.cpus.len() {
            TYPER_LAST
        } else {
            0
        };
        let typer = (vcpu as u64) << TYPER_PROCESSOR_SHIFT | last;
        let affinity = u64::from(affinity(vcpu));
        match (offset, size) {
            (GICR_IIDR, 4) => IIDR,
            (GICR_TYPER, 8) => affinity << 32 | typer,
            (GICR_TYPER, 4) => typer,
            (GICR_TYPER_HIGH, 4) => affinity,
            (GICR_WAKER, 4) if self.cpus.get(vcpu).is_some_and(|cpu| cpu.asleep) => {
                WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP
            }
            (PIDR2, 4) => PIDR2_GICV3,
            // GICR_CTLR, GICR_STATUSR, GICR_SYNCR (never busy) and what LPIs would need.
            _ => 0,
        }
    }

    fn write_distributor(&mut self, offset: u64, size: u64, value: u64) -> KickMask {
        if let Some((spi, half)) = decode_router(offset, size) {
            // Bits 63:32 hold Aff3, which GICD_TYPER.A3V says does not exist.
            return if half == RouterHalf::High {
                KickMask::NONE
            } else {
                self.write_router(spi, value as u32)
            };
        }
        if (offset, size) == (GICD_CTLR, 4) {
            return self.write_ctlr(value);
        }
        match Bank::decode(offset, size) {
            None | Some((_, 0)) => KickMask::NONE,
            Some((bank, index)) => self.write_bank(0, index, bank, size, value as u32),
        }
    }

    pub(super) fn write_ctlr(&mut self, value: u64) -> KickMask {
        let groups = Groups::new(value & CTLR_ENABLE_GRP0 != 0, value & CTLR_ENABLE_GRP1 != 0);
        if groups == self.groups {
            return KickMask::NONE;
        }
        self.groups = groups;
        let mut kick = KickMask::NONE;
        for vcpu in 0..self.cpus.len() {
            kick |= self.kick_holders(vcpu, 0, u32::MAX) | self.update_private(vcpu, u32::MAX);
        }
        for index in 1..BLOCKS {
            kick |= self.kick_holders(0, index, u32::MAX) | self.update(0, index, u32::MAX);
        }
        kick
    }

    /// Writes the low half of GICD_IROUTER. "Any participating PE" is vCPU 0, which always exists.
    fn write_router(&mut self, spi: usize, value: u32) -> KickMask {
        let register = value & (IROUTER_AFFINITY | IROUTER_IRM);
        let target = if register & IROUTER_IRM != 0 {
            0
        } else {
            let vcpu = ((register >> 8) << 4 | (register & 0xf)) as usize;
            let exists = vcpu < self.cpus.len() && affinity(vcpu) == register;
            if exists { vcpu as u8 } else { NOBODY }
        };
        self.reroute(spi, register, target)
    }

    pub(super) fn write_bank(
        &mut self,
        vcpu: usize,
        index: usize,
        bank: Bank,
        size: u64,
        value: u32,
    ) -> KickMask {
        let Some(block) = self.block_mut(vcpu, index) else {
            return KickMask::NONE;
        };
        // Which interrupts to look at again, and of those, which must leave their list register.
        let (changed, recall) = match bank {
            Bank::Group => {
                // SGIs and PPIs included: with DS = 1 the guest chooses.
                let changed = block.group1 ^ value;
                block.group1 = value;
                (changed, changed)
            }
            Bank::SetEnable => {
                let changed = value & !block.enabled;
                block.enabled |= value;
                (changed, 0)
            }
            Bank::ClearEnable => {
                let changed = value & block.enabled;
                block.enabled &= !value;
                (changed, changed)
            }
            Bank::SetPending => {
                let changed = value & !block.latch;
                block.latch |= value;
                (changed, 0)
            }
            Bank::ClearPending => {
                block.latch &= !value;
                block.carried &= !value;
                (value, value)
            }
            Bank::SetActive | Bank::ClearActive => {
                return self.write_active(vcpu, index, bank, value);
            }
            Bank::Priority { first } => {
                for byte in 0..size as u32 {
                    block.set_priority(first + byte, (value >> (8 * byte)) as u8);
                }
                (0, 0)
            }
            // SGIs are edge-triggered and PPIs, being timers here, level-sensitive.
            Bank::Config { .. } if index == 0 => (0, 0),
            Bank::Config { half } => (block.set_config(half, value), 0),
        };
        if changed == 0 {
            return KickMask::NONE;
        }
        self.kick_holders(vcpu, index, recall) | self.update(vcpu, index, changed)
    }

    fn write_active(&mut self, vcpu: usize, index: usize, bank: Bank, value: u32) -> KickMask {
        let Some(block) = self.block_mut(vcpu, index) else {
            return KickMask::NONE;
        };
        block.forced |= value & block.held;
        let idle = value & !block.held & !block.queued & !block.active;
        if matches!(bank, Bank::SetActive) {
            block.active |= value;
            // One that is nowhere yet becomes active where it is routed to.
            for bit in bits(if index == 0 { 0 } else { idle }) {
                if let Some(route) = self
                    .routes
                    .get_mut(index * 32 + bit as usize - FIRST_SPI as usize)
                {
                    route.owner = route.target;
                }
            }
        } else {
            block.active &= !value;
        }
        self.kick_holders(vcpu, index, value) | self.update(vcpu, index, value)
    }
}

pub(super) fn read_bank(block: &Block, bank: Bank, size: u64) -> u64 {
    let word = match bank {
        Bank::Group => block.group1,
        Bank::SetEnable | Bank::ClearEnable => block.enabled,
        // A latch that a running vCPU's list register carries counts until that vCPU is drained.
        Bank::SetPending | Bank::ClearPending => block.pending() | block.carried,
        Bank::SetActive | Bank::ClearActive => block.active,
        Bank::Priority { first } => (0..size as u32).fold(0, |word, byte| {
            word | u32::from(block.priority(first + byte)) << (8 * byte)
        }),
        Bank::Config { half } => block.config(half),
    };
    u64::from(word)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RouterHalf {
    Low,
    High,
    Both,
}

/// The SPI whose GICD_IROUTER lies at `offset`, and which part of it is accessed.
fn decode_router(offset: u64, size: u64) -> Option<(usize, RouterHalf)> {
    let offset = offset.checked_sub(GICD_IROUTER + 8 * u64::from(FIRST_SPI))?;
    let half = match (offset % 8, size) {
        (0, 8) => RouterHalf::Both,
        (0, 4) => RouterHalf::Low,
        (4, 4) => RouterHalf::High,
        _ => return None,
    };
    let spi = (offset / 8) as usize;
    (spi < SPIS).then_some((spi, half))
}

/// Aff2, Aff1 and Aff0 of a vCPU, as in its MPIDR_EL1 bits 23:0.
const fn affinity(vcpu: usize) -> u32 {
    ((vcpu as u32 >> 4) << 8) | (vcpu as u32 & 0xf)
}
