//! From a pending interrupt to the vCPU that is to take it: inputs, SGIs and the to-do words.

use super::block::bits;
use super::{BLOCKS, Cpu, FIRST_SPI, KickMask, Model, NOBODY, SGIS, Vgic};

/// ICC_SGI1R_EL1.INTID, lowest bit (IHI 0069, section 12.2.24).
const SGI1R_INTID_SHIFT: u32 = 24;
/// ICC_SGI1R_EL1.IRM: to all but the sender.
const SGI1R_IRM: u64 = 1 << 40;
/// ICC_SGI1R_EL1.Aff1, lowest bit.
const SGI1R_AFF1_SHIFT: u32 = 16;
/// ICC_SGI1R_EL1: Aff3, RS and Aff2, all zero for a vCPU that exists.
const SGI1R_NOBODY: u64 = 0x00ff_f0ff_0000_0000;

/// Where INTID `intid` is kept: block and bit. `None` above the last SPI.
const fn place(intid: u32) -> Option<(usize, u32)> {
    let index = (intid >> 5) as usize;
    if index < BLOCKS {
        Some((index, 1 << (intid & 31)))
    } else {
        None
    }
}

impl Vgic {
    /// Sets the input line of a PPI of `vcpu` or of an SPI (whose `vcpu` does not matter). A rising
    /// line latches an edge-triggered interrupt; a level-sensitive one is pending while its line is
    /// high. One that is in a list register when its line falls kicks the holder, as the guest is neither
    /// to take it nor to exit at its deactivation. INTIDs without a line (SGIs, unknown) are ignored.
    pub fn set_level(&mut self, vcpu: usize, intid: u32, level: bool) -> KickMask {
        if intid < SGIS {
            return KickMask::NONE;
        }
        let Some((index, flag)) = place(intid) else {
            return KickMask::NONE;
        };
        let Some(block) = self.block_mut(vcpu, index) else {
            return KickMask::NONE;
        };
        if block.set_line(flag, level) == 0 {
            return KickMask::NONE;
        }
        let withdrawn = if level { 0 } else { flag & !block.edge };
        self.update(vcpu, index, flag) | self.kick_holders(vcpu, index, withdrawn)
    }

    /// Sends the SGI that vCPU `from` asked for by writing `icc_sgi1r` to ICC_SGI1R_EL1: of either group, as KVM
    /// does; or, if not `either`, to ICC_SGI0R_EL1 or ICC_ASGI1R_EL1, laid out alike: to those vCPUs that have it in
    /// group 0 (IHI 0069, ICC_SGI0R_EL1, with GICD_CTLR.DS = 1). A GICv2 has no such registers.
    pub fn send_sgi(&mut self, from: usize, icc_sgi1r: u64, either: bool) -> KickMask {
        if self.model == Model::V2 {
            return KickMask::NONE;
        }
        let everybody = u32::MAX >> (32 - self.cpus.len() as u32);
        let targets = if icc_sgi1r & SGI1R_IRM != 0 {
            KickMask(everybody).without(from).0
        } else if icc_sgi1r & SGI1R_NOBODY != 0 {
            0
        } else {
            match (icc_sgi1r >> SGI1R_AFF1_SHIFT) & 0xff {
                0 => icc_sgi1r as u32 & 0xffff & everybody,
                1 => (icc_sgi1r as u32) << 16 & everybody,
                _ => 0,
            }
        };
        let flag = 1 << ((icc_sgi1r >> SGI1R_INTID_SHIFT) & 0xf);
        let mut kick = KickMask::NONE;
        for vcpu in bits(targets) {
            if let Some(cpu) = self.cpus.get_mut(vcpu as usize)
                && (either || cpu.private.group1 & flag == 0)
            {
                cpu.private.latch |= flag;
                kick |= self.update_private(vcpu as usize, flag);
            }
        }
        kick
    }

    /// True if `vcpu` has an interrupt to take: it must not sleep in WFI. Interrupts held in its list
    /// registers do not count, so drain first. The CPU interface's priority mask is not known here;
    /// a vCPU that masks what wakes it finds out by itself, as WFI may end at any time.
    #[must_use]
    pub fn deliverable(&self, vcpu: usize) -> bool {
        let Some(cpu) = self.cpus.get(vcpu) else {
            return false;
        };
        bits(cpu.summary).any(|index| {
            let index = index as usize;
            let todo = cpu.todo.get(index).copied().unwrap_or(0);
            // What is queued and not active is pending, enabled and routed here.
            self.block(vcpu, index)
                .is_some_and(|block| todo & !block.active != 0)
        })
    }

    /// True if the machine's virtual-timer interrupt must be *active* at the physical redistributor
    /// while `vcpu` runs, false if inactive. Call after [`Vgic::fill`].
    ///
    /// That is so while its list register (with the HW bit) is present, and also while its line is
    /// high without one, because the guest has it disabled or list registers are short: else the
    /// physical interrupt would end every run at once, for ever. Without the HW bit the line alone counts: the guest
    /// may end the interrupt of a line that is low without anybody hearing of it.
    #[must_use]
    pub fn vtimer_needs_active(&self, vcpu: usize) -> bool {
        let Some(cpu) = self.cpus.get(vcpu) else {
            return false;
        };
        let block = &cpu.private;
        let bits = match self.vtimer_hw {
            true => block.held | block.line | block.active,
            false => block.line,
        };
        bits & (1 << (self.vtimer & 31)) != 0
    }

    /// Queues and unqueues the interrupts of `mask` in a block whose state has changed.
    pub(super) fn update(&mut self, vcpu: usize, index: usize, mask: u32) -> KickMask {
        match index.checked_sub(1) {
            None => self.update_private(vcpu, mask),
            Some(spi) => self.update_spis(spi, mask),
        }
    }

    /// [`Vgic::update`] for the private block of `vcpu`, whose queue is to-do word 0 itself.
    pub(super) fn update_private(&mut self, vcpu: usize, mask: u32) -> KickMask {
        let Some(cpu) = self.cpus.get_mut(vcpu) else {
            return KickMask::NONE;
        };
        let block = &mut cpu.private;
        let wanted = block.wanted(self.groups) & mask;
        let queue = (wanted | (block.active & mask)) & !block.held;
        // A held one that is wanted again must get into its list register.
        let news = (queue & !block.queued) | (wanted & block.held);
        block.queued = (block.queued & !mask) | queue;
        cpu.todo[0] = block.queued;
        cpu.summary = (cpu.summary & !1) | u32::from(block.queued != 0);
        if news != 0 {
            KickMask::one(vcpu as u8)
        } else {
            KickMask::NONE
        }
    }

    /// [`Vgic::update`] for block `n` of the SPIs.
    pub(super) fn update_spis(&mut self, n: usize, mask: u32) -> KickMask {
        let Some(block) = self.spis.get_mut(n) else {
            return KickMask::NONE;
        };
        let wanted = block.wanted(self.groups) & mask;
        let queue = (wanted | (block.active & mask)) & !block.held;
        let mut kick = KickMask::NONE;
        for bit in bits((queue ^ block.queued) & mask) {
            let flag = 1 << bit;
            let Some(route) = self.routes.get_mut(n * 32 + bit as usize) else {
                continue;
            };
            if queue & flag == 0 {
                block.queued &= !flag;
                if let Some(cpu) = self.cpus.get_mut(usize::from(route.owner)) {
                    cpu.dequeue(n + 1, flag);
                }
                continue;
            }
            // An active interrupt stays with the vCPU that is to deactivate it.
            if block.active & flag == 0 || route.owner == NOBODY {
                route.owner = route.target;
            }
            if let Some(cpu) = self.cpus.get_mut(usize::from(route.owner)) {
                block.queued |= flag;
                cpu.enqueue(n + 1, flag);
                kick |= KickMask::one(route.owner);
            }
        }
        kick | self.kick_holders(0, n + 1, wanted)
    }

    /// The vCPUs that hold interrupts of `mask` in their list registers.
    pub(super) fn kick_holders(&self, vcpu: usize, index: usize, mask: u32) -> KickMask {
        let held = self.block(vcpu, index).map_or(0, |block| block.held & mask);
        if held == 0 {
            return KickMask::NONE;
        }
        if index == 0 {
            return KickMask::one(vcpu as u8);
        }
        bits(held).fold(KickMask::NONE, |kick, bit| {
            let spi = index * 32 + bit as usize - FIRST_SPI as usize;
            kick | self
                .routes
                .get(spi)
                .map_or(KickMask::NONE, |route| KickMask::one(route.owner))
        })
    }

    /// Routes SPI number `spi` (INTID - 32) to `target`. A pending one moves at once if it is queued,
    /// at the holder's drain if it is held; an active one stays until it is deactivated.
    pub(super) fn reroute(&mut self, spi: usize, register: u32, target: u8) -> KickMask {
        let (n, flag) = (spi / 32, 1 << (spi % 32));
        let (Some(block), Some(route)) = (self.spis.get_mut(n), self.routes.get_mut(spi)) else {
            return KickMask::NONE;
        };
        route.register = register;
        route.target = target;
        if block.queued & !block.active & flag != 0 {
            block.queued &= !flag;
            if let Some(cpu) = self.cpus.get_mut(usize::from(route.owner)) {
                cpu.dequeue(n + 1, flag);
            }
        }
        if (block.queued | block.held) & flag == 0 {
            route.owner = NOBODY;
        }
        self.kick_holders(0, n + 1, flag) | self.update_spis(n, flag)
    }
}

impl Cpu {
    fn enqueue(&mut self, index: usize, flag: u32) {
        if let Some(word) = self.todo.get_mut(index) {
            *word |= flag;
            self.summary |= 1 << index;
        }
    }

    pub(super) fn dequeue(&mut self, index: usize, flags: u32) {
        if let Some(word) = self.todo.get_mut(index) {
            *word &= !flags;
            if *word == 0 {
                self.summary &= !(1 << index);
            }
        }
    }
}
