//! What a GICv2's distributor has otherwise than a GICv3's (IHI 0048B, 4.3): registers for private
//! interrupts in itself, targets as sets of vCPUs, SGIs by a register of its own. There are no security
//! extensions.

use super::block::bits;
use super::registers::{
    Bank, CTLR_ENABLE_GRP0, CTLR_ENABLE_GRP1, GICD_CTLR, GICD_IIDR, GICD_TYPER,
};
use super::registers::{IIDR, read_bank};
use super::{BLOCKS, FIRST_SPI, KickMask, NOBODY, SGIS, SPIS, Vgic};

/// The bits of the SGIs in the first word of a bank.
pub(super) const SGI_MASK: u32 = (1 << SGIS) - 1;

const GICD_SGIR: u64 = 0xf00;
const ICPIDR2: u64 = 0xfe8;
/// GICv2, of Arm's numbering scheme.
const ICPIDR2_GICV2: u64 = 0x2b;
/// GICD_TYPER.ITLinesNumber.
const TYPER_LINES: u64 = BLOCKS as u64 - 1;
/// GICD_TYPER.CPUNumber: lowest bit.
const TYPER_CPUS_SHIFT: u32 = 5;

/// GICD_SGIR.TargetListFilter: lowest bit, and its values.
const SGIR_FILTER_SHIFT: u64 = 24;
const SGIR_LIST: u64 = 0;
const SGIR_OTHERS: u64 = 1;
const SGIR_SELF: u64 = 2;
/// GICD_SGIR.CPUTargetList: lowest bit.
const SGIR_TARGETS_SHIFT: u64 = 16;

/// Registers with a byte for each interrupt, whose bits are vCPUs.
#[derive(Clone, Copy)]
enum Bytes {
    /// GICD_ITARGETSR.
    Targets,
    /// GICD_CPENDSGIR.
    ClearPending,
    /// GICD_SPENDSGIR.
    SetPending,
}

/// The register at `offset`, and the INTID that its lowest byte belongs to.
fn decode(offset: u64, size: u64) -> Option<(Bytes, u32)> {
    if !(size == 4 || size == 1) || !offset.is_multiple_of(size) {
        return None;
    }
    let at = |base| (offset - base) as u32;
    match offset {
        0x800..0xc00 => Some((Bytes::Targets, at(0x800))),
        0xf10..0xf20 => Some((Bytes::ClearPending, at(0xf10))),
        0xf20..0xf30 => Some((Bytes::SetPending, at(0xf20))),
        _ => None,
    }
}

impl Vgic {
    /// vCPU `vcpu` reads.
    pub(super) fn read_v2(&self, vcpu: usize, offset: u64, size: u64) -> u64 {
        match (offset, size) {
            (GICD_CTLR, 4) => self.group_enables(),
            (GICD_TYPER, 4) => (self.cpus.len() as u64 - 1) << TYPER_CPUS_SHIFT | TYPER_LINES,
            (GICD_IIDR, 4) => IIDR,
            (ICPIDR2, 4) => ICPIDR2_GICV2,
            _ => {
                if let Some((bytes, first)) = decode(offset, size) {
                    return (0..size as u32).fold(0, |word, n| {
                        word | u64::from(self.read_byte(vcpu, bytes, first + n)) << (8 * n)
                    });
                }
                Bank::decode(offset, size)
                    .and_then(|(bank, index)| Some(read_bank(self.block(vcpu, index)?, bank, size)))
                    .unwrap_or(0)
            }
        }
    }

    fn read_byte(&self, vcpu: usize, bytes: Bytes, intid: u32) -> u8 {
        match (bytes, intid.checked_sub(FIRST_SPI)) {
            // With one vCPU they all are its own, and the registers read as zero.
            (Bytes::Targets, _) if self.cpus.len() == 1 => 0,
            (Bytes::Targets, None) => 1 << (vcpu & 7),
            (Bytes::Targets, Some(spi)) => self
                .routes
                .get(spi as usize)
                .map_or(0, |route| route.register as u8),
            _ => self.cpus.get(vcpu).map_or(0, |cpu| cpu.pending_from(intid)),
        }
    }

    /// vCPU `vcpu` writes.
    pub(super) fn write_v2(&mut self, vcpu: usize, offset: u64, size: u64, value: u64) -> KickMask {
        match (offset, size) {
            (GICD_CTLR, 4) => return self.write_ctlr(value),
            (GICD_SGIR, 4) => return self.write_sgir(vcpu, value),
            _ => {}
        }
        if let Some((bytes, first)) = decode(offset, size) {
            return (0..size as u32).fold(KickMask::NONE, |kick, n| {
                kick | self.write_byte(vcpu, bytes, first + n, (value >> (8 * n)) as u8)
            });
        }
        let Some((bank, index)) = Bank::decode(offset, size) else {
            return KickMask::NONE;
        };
        let mut value = value as u32;
        // SGIs are always enabled, and pend from somebody.
        if index == 0
            && matches!(
                bank,
                Bank::ClearEnable | Bank::SetPending | Bank::ClearPending
            )
        {
            value &= !SGI_MASK;
        }
        self.write_bank(vcpu, index, bank, size, value)
    }

    fn write_byte(&mut self, vcpu: usize, bytes: Bytes, intid: u32, value: u8) -> KickMask {
        let spi = (intid as usize).wrapping_sub(FIRST_SPI as usize);
        match bytes {
            Bytes::Targets if self.cpus.len() > 1 && spi < SPIS => {
                let targets = value & self.everybody();
                // One of several that are named takes it.
                let target = match targets {
                    0 => NOBODY,
                    targets => targets.trailing_zeros() as u8,
                };
                self.reroute(spi, targets.into(), target)
            }
            Bytes::Targets => KickMask::NONE,
            Bytes::SetPending => self.change_sgi(vcpu, intid, value, true),
            Bytes::ClearPending => self.change_sgi(vcpu, intid, value, false),
        }
    }

    /// All vCPUs, a bit each; there are eight at most.
    fn everybody(&self) -> u8 {
        (0xffu16 << self.cpus.len() >> 8) as u8
    }

    fn write_sgir(&mut self, from: usize, value: u64) -> KickMask {
        let own = 1u8 << (from & 7);
        let targets = match value >> SGIR_FILTER_SHIFT & 3 {
            SGIR_LIST => (value >> SGIR_TARGETS_SHIFT) as u8,
            SGIR_OTHERS => !own,
            SGIR_SELF => own,
            _ => 0,
        };
        bits(u32::from(targets & self.everybody())).fold(KickMask::NONE, |kick, vcpu| {
            kick | self.change_sgi(vcpu as usize, value as u32 % SGIS, own, true)
        })
    }

    /// Makes SGI `intid` of `vcpu` pending, or not, from the vCPUs in `from`.
    fn change_sgi(&mut self, vcpu: usize, intid: u32, from: u8, pending: bool) -> KickMask {
        let from = from & self.everybody();
        let Some(cpu) = self.cpus.get_mut(vcpu).filter(|_| from != 0) else {
            return KickMask::NONE;
        };
        let flag = 1 << (intid % SGIS);
        if pending {
            cpu.pend_from(intid, from);
            return self.update_private(vcpu, flag);
        }
        cpu.unpend_from(intid, from);
        self.kick_holders(vcpu, 0, flag) | self.update_private(vcpu, flag)
    }

    /// GICD_CTLR of either version: the enables alone.
    pub(super) fn group_enables(&self) -> u64 {
        let enable = |on, bit| if on { bit } else { 0 };
        enable(self.groups.group0(), CTLR_ENABLE_GRP0)
            | enable(self.groups.group1(), CTLR_ENABLE_GRP1)
    }
}
